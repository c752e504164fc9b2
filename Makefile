# make demo | test | test-sdks | lint | soak | bench | bench-controller …  Everything is installed into .venv, pinned by requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
# The headers are where tools/system-packages unpacks them for a user who cannot install any.
HEADERS = $(CURDIR)/.venv/headers/usr/include
PIP = CPATH="$(HEADERS):$$(echo $(HEADERS)/python3.*)" \
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation --use-pep517
NATIVE := $(wildcard _native/*.pyx _native/*.pxd)

.PHONY: cluster e2e fuzz handover model mutants soak hostile-objects bench bench-quick bench-controller demo docs test lint format image sbom local-images lock clean

demo: .venv/.built
	@$(BIN)/podidctl sandbox demo

# A real control plane with one empty node, to install the chart into by hand, until Ctrl-C. As root.
cluster: .venv/.built
	@$(BIN)/python -m tools.cluster

# These wait for most of their time, and run next to the others, which take as long.
BESIDE := tests/deploy tests/mic
# These measure delays, memory or CPU time, which other tests on the same cores would disturb.
ALONE := tests/benchmarks/test_load_generator.py tests/integration/test_greedy_pods.py \
	tests/integration/test_memory_of_connections.py tests/mic/test_hostile_objects_on_a_real_api_server.py
test: .venv/.built
	@$(BIN)/python tests/testplane/up.py build >/dev/null
	@$(BIN)/python tests/testplane/up.py tools >/dev/null
	@tools/bench-packages
	@tools/observability-packages
	@rm -rf build/calls
	@CALLS_SEEN=build/calls $(BIN)/pytest $(BESIDE) $(ALONE:%=--ignore=%) $(PYTEST_FLAGS) >build/tests-beside.log 2>&1 & beside=$$!; \
	trap 'kill $$beside' INT TERM; \
	CALLS_SEEN=build/calls $(BIN)/pytest $(BESIDE:%=--ignore=%) --ignore=tests/model $(ALONE:%=--ignore=%) $(PYTEST_FLAGS); \
	others=$$?; wait $$beside; beside=$$?; cat build/tests-beside.log; [ $$others = 0 ] && [ $$beside = 0 ]
	@CALLS_SEEN=build/calls $(BIN)/pytest $(ALONE) $(PYTEST_FLAGS)
	@$(BIN)/python -m tests.rights build/calls

# Azure's own SDKs in five languages; their tests are no part of `make test`.
test-sdks: .venv/.built
	@$(BIN)/python tests/sdks/applications.py
	@$(BIN)/pytest tests/sdks $(PYTEST_FLAGS)

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

# The tables of flags and metrics, from the code.
docs: .venv/.built
	$(BIN)/python -m tools.handbook
	$(BIN)/python -m tests.mutants.count

# Coverage-guided, an hour in all: the parsers under the sanitizers, the lanes against each other and the oracle.
FUZZ_SECONDS ?= 3600
fuzz: build/fuzz/.built
	$(BIN)/python tests/fuzz/run.py $(FUZZ_SECONDS)

build/fuzz/.built: .venv/.built $(NATIVE) setup.py $(wildcard tests/fuzz/*.lock tests/fuzz/build.py tests/fuzz/*.pyx tests/fuzz/*.c)
	@echo "compiling the data plane once more, with sanitizers"
	@rm -rf build/fuzz/site
	@$(PIP) --require-hashes --no-deps --target build/fuzz/site -r tests/fuzz/requirements.lock
	@CPATH="$(HEADERS):$$(echo $(HEADERS)/python3.*)" $(BIN)/python tests/fuzz/build.py >/dev/null
	@touch $@

# Each change in tests/mutants breaks one promise of docs/security.md in a copy, and the tests named there must fail. As root.
# MUTANTS="tokens node/3 nmi/cli.py test_governor.py" selects; FAST=1 leaves out those that take minutes.
mutants: .venv/.built
	@$(if $(FAST),,$(BIN)/python tests/testplane/up.py build >/dev/null)
	@$(if $(FAST),,$(BIN)/python tests/testplane/up.py tools >/dev/null)
	@$(BIN)/python -m tests.mutants.run $(if $(FAST),--fast) $(MUTANTS)

# The model of an address's life cycle, searched completely by spin (docs/address-lifecycle.md); no part of `make test`.
# A minute with MODEL=quick, as .ci/run does it; with MODEL=full, as every night, the larger configurations as well.
MODEL ?= full
model: .venv/.built
	@tools/model-packages
	@MODEL=$(MODEL) $(BIN)/pytest tests/model -rP $(PYTEST_FLAGS)

# Ten minutes of load while pods come and go and everything around NMI fails in turn.
SOAK_SECONDS ?= 600
soak: .venv/.built
	$(BIN)/python -m tests.soak.run $(SOAK_SECONDS) build/soak.json

# Part of `make test` with a tenth of the objects: what MIC and NMI do about a tenant who fills the API server.
hostile-objects: .venv/.built
	@$(BIN)/python tests/testplane/up.py build >/dev/null
	@HOSTILE_OBJECTS=all $(BIN)/pytest -s tests/mic/test_hostile_objects_on_a_real_api_server.py $(PYTEST_FLAGS)

# What the next owner of an address gets, with and without local evidence, behind two kinds of CNI. As root.
HANDOVER_SECONDS ?= 180
handover: .venv/.built
	$(BIN)/python -m tests.soak.handover $(HANDOVER_SECONDS) build/handover.json

# A quarter of an hour, or three minutes: NMI beside nginx and others, what it weighs, its functions, what MIC costs.
bench: .venv/.built
	@tools/bench-packages
	@$(BIN)/python -m benchmarks.run

bench-quick: .venv/.built
	@tools/bench-packages
	@$(BIN)/python -m benchmarks.run --quick

# Ten minutes: MIC on a real API server, up to 10,000 pods. The figures are of use only from a quiet machine.
bench-controller: .venv/.built
	@$(BIN)/python tests/testplane/up.py build >/dev/null
	@$(BIN)/python -m benchmarks.controller.run

# Part of `make test`: the chart installed by the real helm on a fresh control plane, used, upgraded and taken off.
e2e: .venv/.built
	@$(BIN)/python tests/testplane/up.py build >/dev/null
	@$(BIN)/python tests/testplane/up.py tools >/dev/null
	@tools/observability-packages
	@$(BIN)/pytest tests/e2e $(PYTEST_FLAGS)

# The images, and what is in them (deploy/docker/README.md). DOCKER may be podman or buildah, too.
DOCKER ?= docker
IMAGES ?= aad-pod-identity
IMAGE_FLAGS ?=
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
VERSION = $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' podidentity/version.py)
IMAGE_BUILD = $(DOCKER) build -f deploy/docker/Dockerfile --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$(REVISION) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(IMAGE_FLAGS)
WITH_DIGEST = @case "$(BASE)" in *@sha256:*) ;; *) echo "name the base by its digest: make $@ BASE=IMAGE@sha256:… \
	(deploy/docker/README.md says which fit)" >&2; exit 2 ;; esac

image:
	$(WITH_DIGEST)
	$(IMAGE_BUILD) --target nmi -t $(IMAGES)/nmi:$(VERSION) .
	$(IMAGE_BUILD) --target mic -t $(IMAGES)/mic:$(VERSION) .
	$(IMAGE_BUILD) --target demo -t $(IMAGES)/demo:$(VERSION) .

sbom:
	$(WITH_DIGEST)
	$(IMAGE_BUILD) --target sbom --output type=local,dest=build/sbom .

# Ten minutes, as root on Debian: a base from Debian's packages, the images twice, the programs run out of them.
local-images: .venv/.built
	tools/local-images
	$(BIN)/pytest tests/images/built $(PYTEST_FLAGS)

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
	@$(COMPILE) --group build --group test --group lint --group bench --extra sandbox -o requirements.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group build -o build.lock

clean:
	rm -rf .venv build *.egg-info _native/*.so _native/*.c
