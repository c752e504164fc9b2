# make demo | test | lint | bench …  Everything is installed into .venv, pinned by requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := $(wildcard _native/*.pyx _native/*.pxd)

.PHONY: demo test lint format lock clean

demo: .venv/.built
	@$(BIN)/podidctl sandbox demo

test: .venv/.built
	@tools/system-packages $(PYTHON) test
	@$(BIN)/python tests/testplane/up.py build >/dev/null
	@$(BIN)/python tests/testplane/up.py tools >/dev/null
	@$(BIN)/pytest $(PYTEST_FLAGS)

lint: .venv/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint _native/*.pyx _native/*.pxd
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m mypy.stubtest $(patsubst _native/%.pyx,_native.%,$(wildcard _native/*.pyx))

format: .venv/.built
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# The environment: only what the lock names, each package by its hash; then the project itself, compiled in place.
.venv/.installed: requirements.lock
	@tools/system-packages $(PYTHON)
	@echo "installing into .venv (a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/.built: .venv/.installed pyproject.toml setup.py $(NATIVE)
	@echo "compiling the data plane"
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Renews the lock from pyproject.toml's ranges.
lock:
	@$(PYTHON) -m venv .venv/.lock && .venv/.lock/bin/pip install -q uv
	.venv/.lock/bin/uv pip compile -q pyproject.toml --extra podidctl --group build --group test --group lint --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements.lock

clean:
	rm -rf .venv build *.egg-info _native/*.so _native/*.c
