# make demo | test | lint | bench …  Everything is installed into .venv, pinned by requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
# The headers are where tools/system-packages unpacks them for a user who cannot install any.
HEADERS = $(CURDIR)/.venv/headers/usr/include
PIP = CPATH="$(HEADERS):$$(echo $(HEADERS)/python3.*)" \
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation --use-pep517
NATIVE := $(wildcard _native/*.pyx _native/*.pxd)

.PHONY: demo test lint format lock clean

demo: .venv/.built
	@$(BIN)/podidctl sandbox demo

test: .venv/.built
	@$(BIN)/python tests/testplane/up.py build >/dev/null
	@$(BIN)/python tests/testplane/up.py tools >/dev/null
	@$(BIN)/pytest $(PYTEST_FLAGS)

lint: .venv/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint _native/*.pyx _native/*.pxd
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m mypy.stubtest --allowlist tests/native/stubtest_allowlist.txt \
		$(patsubst _native/%.pyx,_native.%,$(wildcard _native/*.pyx))

format: .venv/.built
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# The environment: only what the lock names, each package by its hash; then the project itself, compiled in place.
.venv/.installed: build.lock requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 …")'
	@tools/system-packages $(PYTHON)
	@echo "installing into .venv (a minute, once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r build.lock
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@

.venv/.built: .venv/.installed pyproject.toml setup.py $(NATIVE)
	@echo "compiling the data plane"
	@$(PIP) --no-deps -e .
	@touch $@

# Renews the locks from pyproject.toml's ranges.
COMPILE = .venv/.lock/bin/uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --upgrade
lock:
	@$(PYTHON) -m venv .venv/.lock && .venv/.lock/bin/pip install -q uv
	@$(COMPILE) --group build --group test --group lint --extra podidctl -o requirements.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group build -o build.lock

clean:
	rm -rf .venv build *.egg-info _native/*.so _native/*.c
