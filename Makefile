# Everything is installed into .venv, pinned by sandbox.lock (the programs) and requirements.lock (all). `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
# tools/system-packages unpacks the headers here for a user who cannot install packages.
HEADERS = $(CURDIR)/.venv/headers/usr/include
WITH_HEADERS = CPATH="$(HEADERS):$$(echo $(HEADERS)/python3.*)"
INSTALL = $(BIN)/pip install --disable-pip-version-check --no-build-isolation --use-pep517
PIP = $(WITH_HEADERS) $(INSTALL) -q
WITH_PROGRESS = @$(WITH_HEADERS) $(PYTHON) tools/with_progress.py
PACKAGE = '^(?:Collecting|Requirement already satisfied:|(?=Installing collected)) ?([^ =]+)'
PACKAGES = @PYTHON=$(PYTHON) tools/system-packages
TESTPLANE = @$(BIN)/python tests/support/testplane/up.py
NATIVE := $(wildcard _native/*.pyx _native/*.pxd)
STARTED := $(shell date +%s)
TOOK = @echo "make $@: passed $$(($$(date +%s) - $(STARTED))) seconds after the start of make"

# Some environments forbid Python to store compiled modules. Each test process and each started program would then
# compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: help setup demo cluster check test test-all test-examples test-tools test-plane test-measures test-node fresh \
	nightly test-nightly fresh-test test-sdks test-sdks-nightly test-images test-arm64 test-arm64-machine audit lint format docs e2e e2e-node e2e-node-quick e2e-cilium .cilium-folder .node .node-programs fuzz handover model mutants \
	soak soak-node hostile-objects bench bench-quick bench-controller image podidctl-wheel sbom local-images release release-check \
	release-dry-run release-images release-publish release-push-chart release-push-image release-seal release-sign \
	release-sources release-wheels lock site clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-18s %s\n' "$$name" "$$text"; done

setup: ## Install all system packages that the build and the tests need
	$(PACKAGES) build test node nginx prometheus registry spin browser fresh

demo: .venv/.compiled ## Run MIC and NMI in a sandbox and follow one token
	@$(BIN)/podidctl sandbox demo

# NODE=--node=sandbox starts a node of the sandbox also where a real one is possible. NODE=--help lists the flags of real
# nodes, for example NODE="--proxy=nftables --cni=ptp".
cluster: .venv/.built ## Start a real control plane with one empty node, until Ctrl-C (as root)
	@$(BIN)/python -m tools.cluster $(NODE)

# Cores for tests. A process runs whole files, because tests of one file share servers. tests/selection.py orders them.
JOBS ?= auto
# Many tests wait for a deadline or for a program, so that five processes run on two cores.
TEST_JOBS ?= $(shell echo $$((5 * $(if $(filter auto,$(JOBS)),$$(nproc),$(JOBS)) / 2)))
# Each process starts its own control plane.
PLANE_JOBS ?= 2
# tests/selection.py sets the markers run_check, run_test and run_test_all. The folder is the input of `make audit`.
PYTEST = CALLS_SEEN=build/calls $(BIN)/pytest -q --durations=20 --durations-min=0.5 $(PYTEST_FLAGS)
PARALLEL = --dist=loadfile --no-loadscope-reorder --numprocesses

# A quarter of the examples of property tests. `make test-examples` runs all of them.
QUICK = --hypothesis-profile=quick

check: lint ## Lint, and run all tests that need only .venv
	@rm -rf build/calls
	$(PYTEST) $(QUICK) $(PARALLEL)=$(TEST_JOBS) -m run_check --listed-programs=build
	$(TOOK)

# One run of pytest with the tests of check, so that tests which compute run while others wait.
test: lint ## Run the tests of check, and those that need root or run the programs on the emulators
	@rm -rf build/calls
	$(PACKAGES) test
	$(PYTEST) $(QUICK) $(PARALLEL)=$(TEST_JOBS) -m "run_check or run_test" --listed-programs=build,test
	$(TOOK)

test-all: test test-tools test-plane fresh test-measures audit test-images test-node test-sdks ## Run all tests of a change (as root)

# What guards a release and not each change. CONTRIBUTING.md lists the times.
nightly: test-examples test-nightly test-sdks-nightly model fuzz mutants soak local-images e2e-node test-arm64 ## Run what guards a release in addition to test-all (as root, hours)
	$(TOOK)

test-nightly: .venv/.built ## Run the tests with the marker nightly
	$(PACKAGES) build test nginx prometheus registry browser
	$(TESTPLANE) build >/dev/null
	$(TESTPLANE) tools >/dev/null
	$(PYTEST) $(PARALLEL)=$(PLANE_JOBS) -m run_nightly
	$(TOOK)

test-examples: .venv/.built ## Run the property tests of check and test with all their examples
	$(PYTEST) $(PARALLEL)=$(JOBS) -m "examples and (run_check or run_test)"
	$(TOOK)

test-tools: .venv/.built .venv/.site/.installed ## Run the tests with programs of others: helm, Prometheus, nginx, valgrind, a browser and others
	$(PACKAGES) build test nginx prometheus registry browser
	@$(BIN)/python -c 'from tests.support.testplane import up; up.tool("helm"), up.tool("helm3")'
	$(PYTEST) $(PARALLEL)=$(TEST_JOBS) -m "tools and run_test_all and not (plane or measures)"
	$(TOOK)

test-plane: .venv/.built ## Run the tests on a real control plane; the first run compiles it (7 minutes)
	$(PACKAGES) test prometheus
	$(TESTPLANE) build >/dev/null
	$(TESTPLANE) tools >/dev/null
	$(PYTEST) $(PARALLEL)=$(PLANE_JOBS) -m "plane and run_test_all and not measures"
	$(TOOK)

# COMMIT is what the machines clone; the scenarios are those of this checkout.
COMMIT ?= HEAD
fresh: .venv/.built ## Run make demo and the commands of the first pages on a Debian with nothing installed (as root, 3 minutes)
	$(TESTPLANE) build >/dev/null
	@$(BIN)/python -m tests.system.fresh.run demos --commit=$(COMMIT)
	$(TOOK)

# FRESH="12 root" or FRESH=13 selects of the releases 12 and 13 and the users root and user.
fresh-test: ## Run make test on Debian 12 and 13 with nothing installed, as root and as an ordinary user (as root, 45 minutes)
	@JOBS=$(JOBS) $(PYTHON) -m tests.system.fresh.run tests "$(FRESH)" --commit=$(COMMIT)
	$(TOOK)

test-measures: .venv/.built ## Run the tests that measure delays, memory or CPU time, alone
	$(PACKAGES) test nginx browser
	$(TESTPLANE) build >/dev/null
	$(PYTEST) -m "measures and run_test_all"
	$(TOOK)

test-images: .venv/.built ## Build the images once and run the programs in them
	tools/local-images once
	$(PYTEST) tests/system/images

# Some machines do not permit nodes, for example containers without access to cgroups.
test-node: .venv/.built ## Run e2e-node-quick, or print why this machine cannot run real nodes
	$(PACKAGES) test
	@if $(BIN)/python -m tests.system.node.machine; then $(MAKE) e2e-node-quick; \
		else echo "make $@: NOT RUN, because this machine cannot run real nodes (see above)"; fi

test-sdks: .venv/.built ## Run Azure's own SDKs for Python and JavaScript
	$(PYTEST) -m "not nightly" tests/system/sdks

test-sdks-nightly: .venv/.built ## Run Azure's own SDKs in the other languages
	$(PYTEST) -m nightly tests/system/sdks

# The programs that `make test-sdks` omits take minutes to install; the machine may provide terraform.
.PHONY: test-imds-programs
test-imds-programs: .venv/.built ## Run all programs of docs/imds-applications.md and write its table (as root)
	IMDS_PROGRAMS=all $(PYTEST) tests/system/sdks/test_programs_that_only_know_imds.py
	$(BIN)/python -m tests.system.sdks.imds_table

# Programs for other architectures than arm64 run natively, so that the tests use this machine's iptables and ip.
# tests/nightly/arm64/emulated.py lists the tests that qemu-user cannot run, each with the reason. Tracebacks are native:
# those of pytest parse the source, which Python 3.11.2 fails at if two overlap (gh-106905).
ARM64_TESTS ?= tests/contract/native tests/contract/nmi/server/test_server_over_sockets.py
test-arm64: .venv/.built ## Compile _native for arm64 and run its tests under qemu-user (as root, on Debian)
	$(PACKAGES) test arm64
	$(BIN)/python tests/nightly/arm64/prepare.py
	cd build/arm64/source && $(CURDIR)/tests/nightly/arm64/emulate $(CURDIR)/build/arm64/root \
		$(CURDIR)/build/arm64/root/usr/bin/python3 -m pytest -q -p no:cacheprovider -p tests.nightly.arm64.patience \
		-p tests.nightly.arm64.emulated --tb=native --timeout=600 --durations=20 $(QUICK) $(PARALLEL)=$(JOBS) -m "run_check or run_test" $(PYTEST_FLAGS) $(ARM64_TESTS)
	$(TOOK)

# ARM64_MACHINE_TESTS="-m root tests/system/local/nmi/node" replaces the tests that tests/nightly/arm64/machine.py names.
test-arm64-machine: .venv/.built ## Run tests of sockets and NAT rules on a kernel for arm64, in an emulated machine (as root, on Debian)
	$(PACKAGES) test arm64
	$(BIN)/python tests/nightly/arm64/prepare.py
	$(BIN)/python -m tests.nightly.arm64.machine $(ARM64_MACHINE_TESTS)
	$(TOOK)

audit: ## Test that the chart's roles grant only rights that the tests used (after test, test-tools, test-plane and test-measures)
	@$(BIN)/python -m tests.support.rights build/calls

# Two commands at a time, the longest first.
define LINT
$(BIN)/mypy && $(BIN)/python -m mypy.stubtest --allowlist tests/contract/native/stubtest_allowlist.txt \
	$(patsubst _native/%.pyx,_native.%,$(wildcard _native/*.pyx))
$(BIN)/python -m tools.language
PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint _native/*.pyx _native/*.pxd
$(BIN)/codespell
$(BIN)/lint-imports
$(BIN)/ruff check . && $(BIN)/ruff format --check .
endef
export LINT
lint: .venv/.built ## Check style, types, import contracts, stubs and language
	@echo "$$LINT" | xargs -d '\n' -P 2 -n 1 sh -exc

format: .venv/.built ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: .venv/.built ## Generate the tables of flags, metrics, threats and mutants in docs/
	$(BIN)/python -m tools.handbook
	$(BIN)/python -m tests.nightly.mutants.count

# PROJECT_URL=ADDRESS adds links to the repository.
site: .venv/.site/.installed ## Build the documentation site into build/site; it works from disk
	@NO_MKDOCS_2_WARNING=1 .venv/.site/bin/python -m mkdocs build --strict $(SITE_FLAGS)

.venv/.site/.installed: .venv/.installed site.lock
	@$(PYTHON) -m venv .venv/.site
	@.venv/.site/bin/pip install -q --disable-pip-version-check --require-hashes -r site.lock
	@touch $@

# Coverage-guided fuzzing: the parsers under sanitizers, the lanes against each other and against the oracle.
FUZZ_SECONDS ?= 3600
fuzz: build/fuzz/.built ## Fuzz the parsers and the request lanes for FUZZ_SECONDS (an hour)
	$(BIN)/python -m tests.nightly.fuzz.run $(FUZZ_SECONDS)

build/fuzz/.built: .venv/.built $(NATIVE) setup.py $(wildcard tests/nightly/fuzz/*.lock tests/nightly/fuzz/build.py tests/nightly/fuzz/*.pyx tests/nightly/fuzz/*.c)
	@echo "compiling the data plane with sanitizers"
	@rm -rf build/fuzz/site
	@$(PIP) --require-hashes --no-deps --target build/fuzz/site -r tests/nightly/fuzz/requirements.lock
	@CPATH="$(HEADERS):$$(echo $(HEADERS)/python3.*)" $(BIN)/python tests/nightly/fuzz/build.py >/dev/null
	@touch $@

# Each change in tests/nightly/mutants breaks one promise of docs/threats.md in a copy of the tree; the tests named there must
# fail. MUTANTS="tokens node/3 nmi/cli.py test_governor.py" selects; FAST=1 omits those that take minutes.
mutants: .venv/.built ## Run the mutants of tests/nightly/mutants (as root)
	$(PACKAGES) test nginx prometheus
	@$(if $(FAST),,$(BIN)/python tests/support/testplane/up.py build >/dev/null)
	@$(if $(FAST),,$(BIN)/python tests/support/testplane/up.py tools >/dev/null)
	@$(BIN)/python -m tests.nightly.mutants.run $(if $(FAST),--fast) $(MUTANTS)

# MODEL=quick takes a minute; MODEL=full searches the larger configurations as well.
MODEL ?= full
model: .venv/.built ## Check the model of an address's life cycle completely (docs/address-lifecycle.md)
	$(PACKAGES) spin
	@MODEL=$(MODEL) $(BIN)/pytest tests/nightly/model -rP $(PYTEST_FLAGS)

SOAK_SECONDS ?= 600
soak: .venv/.built ## Load NMI for SOAK_SECONDS (ten minutes) while pods change and servers fail
	$(BIN)/python -m tests.nightly.soak.run $(SOAK_SECONDS)

# The pods of a real node come and go. CNI=ptp has a link of its own for each pod.
SOAK_ANSWERS ?= 100000
SOAK_RATE ?= 2000
CNI ?= bridge
soak-node: .node-programs ## Load a real node until pods got SOAK_ANSWERS answers, with rollouts and faults (as root)
	$(BIN)/python -m tests.nightly.soak.real_node $(SOAK_ANSWERS) $(SOAK_RATE) $(CNI)

# test-measures runs this test with a tenth of the objects.
hostile-objects: .venv/.built ## Test MIC and NMI with a tenant that fills the API server
	$(TESTPLANE) build >/dev/null
	@HOSTILE_OBJECTS=all $(BIN)/pytest -s tests/system/plane/mic/test_hostile_objects_on_a_real_api_server.py $(PYTEST_FLAGS)

HANDOVER_SECONDS ?= 180
handover: .venv/.built ## Measure the responses to the next owner of an address, behind two kinds of CNI (as root)
	$(BIN)/python -m tests.nightly.soak.handover $(HANDOVER_SECONDS)

# REFERENCE_NMI=path adds the binary of the Go implementation's NMI (benchmarks/README.md).
bench: .venv/.built ## Run all benchmarks (15 minutes)
	$(PACKAGES) nginx
	@$(BIN)/python -m benchmarks.run

bench-quick: .venv/.built ## Run the benchmarks with fewer repetitions (3 minutes)
	$(PACKAGES) nginx
	@$(BIN)/python -m benchmarks.run --quick

bench-controller: .venv/.built ## Measure MIC on a real API server with up to 10,000 pods (10 minutes, quiet machine)
	$(TESTPLANE) build >/dev/null
	@$(BIN)/python -m benchmarks.controller.run

# A part of test-plane: install the chart with helm on a new control plane, use, upgrade and uninstall it.
e2e: .venv/.built ## Run the end-to-end tests only
	$(PACKAGES) test prometheus
	$(TESTPLANE) build >/dev/null
	$(TESTPLANE) tools >/dev/null
	@$(BIN)/pytest tests/system/plane/e2e $(PYTEST_FLAGS)

# Both targets write build/node/results.json for `python -m tests.system.node.report`, and build/node/data_planes.json for
# `python -m tests.system.node.matrix`. DATA_PLANES=all adds the cells of the matrix that both leave out. FORMER names the tag
# or commit from which e2e-node upgrades; without it, the newest tag does.
e2e-node: ROLLOUTS ?= 20
e2e-node: RATE ?= 2000
e2e-node: REBOOTS ?= 5
e2e-node: RUN_NODE = run_node
e2e-node: .node ## Run all tests on real nodes (more than half an hour, as root)
	$(TOOK)

e2e-node-quick: ROLLOUTS ?= 3
e2e-node-quick: RATE ?= 500
e2e-node-quick: REBOOTS ?= 1
e2e-node-quick: RUN_NODE = run_node and not long
e2e-node-quick: .node ## Run the tests on real nodes that take at most 15 minutes (as root)
	$(TOOK)

e2e-cilium: .cilium-folder .node-programs ## Run the tests on a node with a built Cilium agent: CILIUM=FOLDER (15 minutes, as root)
	$(PACKAGES) cilium
	CILIUM=$(CILIUM) $(PYTEST) -m run_cilium tests/system/node/on_cilium
	$(TOOK)

.cilium-folder:
	@test -x "$(CILIUM)/cilium-agent" || { \
		echo "set CILIUM to the folder that tests/system/node/cilium_agent/build.sh has filled" >&2; exit 2; }

.node: .node-programs
	ROLLOUTS=$(ROLLOUTS) RATE=$(RATE) REBOOTS=$(REBOOTS) DATA_PLANES=$(DATA_PLANES) FORMER=$(FORMER) $(PYTEST) -m "$(RUN_NODE)" tests/system/node

.node-programs: .venv/.built
	$(PACKAGES) test
	@$(BIN)/python -m tests.system.node.machine
	$(PACKAGES) node
	$(TESTPLANE) build >/dev/null
	$(TESTPLANE) tools >/dev/null
	@tools/local-images once

# deploy/docker/README.md describes the images. DOCKER may be podman or buildah.
DOCKER ?= docker
IMAGES ?= localhost/aad-pod-identity
IMAGE_FLAGS ?=
# make PLATFORM=linux/arm64 builds for nodes of that architecture; without it, the images are for this machine's. A
# variable of the environment has no effect: others use this name.
PLATFORM =
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
VERSION = $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' podidentity/version.py)
IMAGE_BUILD = $(DOCKER) build -f deploy/docker/Dockerfile --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$(REVISION) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(addprefix --platform=,$(PLATFORM)) $(IMAGE_FLAGS)
NO_EMULATOR = make $@: the build for $(PLATFORM) failed. If it reports 'exec format error', this machine cannot run programs \
	of that architecture: install an emulator (Debian: apt-get install qemu-user-static), or build on a machine of that \
	architecture (deploy/docker/README.md, Other architectures)
OR_NAME_EMULATOR = || { code=$$?; $(if $(PLATFORM),echo "$(NO_EMULATOR)" >&2;) exit $$code; }
WITH_DIGEST = @case "$(BASE)" in *@sha256:*) ;; *) echo "set BASE to an image with a digest: make $@ BASE=IMAGE@sha256:… \
	(deploy/docker/README.md lists suitable images)" >&2; exit 2 ;; esac

image: ## Build the container images on BASE, for the nodes' PLATFORM
	$(WITH_DIGEST)
	@for program in nmi mic podidctl demo; do echo "building $(IMAGES)/$$program:$(VERSION)"; \
		$(IMAGE_BUILD) --target $$program -t $(IMAGES)/$$program:$(VERSION) . $(OR_NAME_EMULATOR); done

# The wheels of a release, with _native, are built by release-wheels.
podidctl-wheel: ## Build a wheel for podidctl into build/podidctl, for all machines; it needs no C compiler
	@$(PYTHON) -m venv build/podidctl/tools
	@build/podidctl/tools/bin/pip install -q --disable-pip-version-check --require-hashes -r build.lock
	@rm -f build/podidctl/*.whl
	@NATIVE_OMIT=1 build/podidctl/tools/bin/pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w build/podidctl .
	@echo "install it: pipx install '$$(echo build/podidctl/*.whl)[podidctl]', or the same with the pip of a virtual environment"

sbom: ## Write the bills of materials of the images
	$(WITH_DIGEST)
	@$(IMAGE_BUILD) --target sbom --output type=local,dest=build/sbom . $(OR_NAME_EMULATOR)

local-images: ## Build the images twice on a base of Debian packages and compare them (10 minutes, root on Debian)
	tools/local-images

# docs/releasing.md describes a release. PROJECT_URL is the repository's address; the artifacts link to it. The recipes
# read TAG, BUILDER and SUBJECT from their environment, because a tag may contain what a shell would run.
RELEASE = build/release/tools/bin/python -m tools.release
BUILDER ?= urn:aad-pod-identity:local-build
export TAG BUILDER SUBJECT
DIST = build/release/dist
release-check: build/release/tools/.installed ## Compare the version in all places; with TAG also the tag and the changelog's date
	@$(RELEASE) check --tag="$$TAG"

release-sources: build/release/tools/.installed ## Build sdist, chart, its bill and the release notes into build/release/dist
	@$(RELEASE) sources

release-wheels: build/release/tools/.installed ## Build and test the wheels of that sdist for manylinux (docker)
	@$(RELEASE) wheels

# Debian keeps the packages of the locked snapshot, so that the images can be built again at any later time.
release-images release-dry-run: DEBIAN_SNAPSHOT ?= http://snapshot.debian.org/archive
release-images: build/release/tools/.installed ## Build and test the images of this machine's architecture for a release (root on Debian 12)
	@$(MAKE) local-images test-images DEBIAN_SNAPSHOT=$(DEBIAN_SNAPSHOT)
	@$(RELEASE) images --images=build/images

release-seal: build/release/tools/.installed ## Write provenance and checksums of all files in build/release/dist
	@$(RELEASE) seal --builder="$$BUILDER"

# WITHOUT=images omits the images, which need root on Debian 12 and ten minutes.
release-dry-run: build/release/tools/.installed ## Do all of a release that needs no signature and no image registry, twice, and compare
	@$(RELEASE) check
	@$(if $(filter images,$(WITHOUT)),,DEBIAN_SNAPSHOT=$(DEBIAN_SNAPSHOT) tools/local-images)
	@$(RELEASE) dry-run $(if $(filter images,$(WITHOUT)),,--images=build/images)
	$(TOOK)

# The pushed tag starts .github/workflows/release.yml, which publishes.
release: TAG = v$(VERSION)
release: ## Do the dry run, create the tag of this version and print the command that publishes it
	@test -z "$$(git status --porcelain)" || { echo "commit or remove these files first:" >&2; git status --short >&2; exit 1; }
	@$(MAKE) release-check
	@$(MAKE) release-dry-run
	@git tag -a "$$TAG" -m 'aad-pod-identity $(VERSION)'
	@echo "created the tag $$TAG; publish it: git push origin $$TAG"

# Only the workflow runs the following, with REGISTRY=ghcr.io/OWNER/REPOSITORY. A name in a registry has no capitals.
LOWER_REGISTRY = $(shell echo '$(REGISTRY)' | tr A-Z a-z)
release-push-image: ## Push the image of PROGRAM for all architectures to REGISTRY, and print its name and digests
	@echo "name=$(LOWER_REGISTRY)/$(PROGRAM)"
	@tools/push-image $(LOWER_REGISTRY)/$(PROGRAM):$(VERSION) $(DIST)/$(PROGRAM)-*.oci.tar

release-push-chart: build/release/tools/.installed ## Push the chart to REGISTRY/charts, and print its name and digest
	@$(RELEASE) push-chart --registry=$(LOWER_REGISTRY)/charts

release-sign: ## Sign SUBJECT=NAME@DIGEST in its registry, and the images that it lists, with the identity of the workflow
	@cosign sign --yes --recursive "$$SUBJECT"

release-publish: ## Sign the checksums, and create the release of TAG from build/release/dist
	@cosign sign-blob --yes --bundle=$(DIST)/SHA256SUMS.sigstore.json $(DIST)/SHA256SUMS
	@gh release create "$$TAG" --verify-tag --title="aad-pod-identity $(VERSION)" --notes-file=$(DIST)/notes.md \
		$(if $(findstring -rc.,$(VERSION)),--prerelease) \
		$$(find $(DIST) -type f ! -name notes.md | LC_ALL=C sort)

build/release/tools/.installed: release.lock
	$(PACKAGES) build
	@echo "installing the tools of a release into build/release/tools"
	@rm -rf build/release/tools
	@$(PYTHON) -m venv build/release/tools
	@build/release/tools/bin/pip install -q --disable-pip-version-check --no-compile --require-hashes \
		--only-binary=:all: -r release.lock
	@touch $@

# The environment has only the packages of the locks, verified by hash. The project is compiled in place. The demo needs
# less than half of the packages.
.venv/.installed: build.lock sandbox.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11, 2) <= sys.version_info[:3] < (3, 15) else "Python 3.11.2 to 3.14 is required; run make PYTHON=python3.11 …")'
	$(PACKAGES) build
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r build.lock
	$(WITH_PROGRESS) "packages of the programs" $$(grep -c == sandbox.lock) $(PACKAGE) $(INSTALL) --require-hashes -r sandbox.lock
	@touch $@

.venv/.compiled: .venv/.installed pyproject.toml setup.py $(NATIVE)
	$(WITH_PROGRESS) "compilation of _native" $$((2 * $(words $(filter %.pyx,$(NATIVE))))) \
		"(?:Cythonizing _native/|building '_native\.)(\w+)" $(INSTALL) -v --no-deps -e .
	@touch $@

.venv/.built: .venv/.compiled requirements.lock
	$(WITH_PROGRESS) "packages of the tests" $$(grep -c == requirements.lock) $(PACKAGE) $(INSTALL) --require-hashes -r requirements.lock
	@touch $@

# UPGRADE= keeps the locked versions and only adds and removes packages.
UPGRADE ?= --upgrade
COMPILE = .venv/.lock/bin/uv pip compile -q pyproject.toml --universal --python-version 3.11.2 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(UPGRADE)
lock: ## Renew the locks from the ranges in pyproject.toml
	@$(PYTHON) -m venv .venv/.lock && .venv/.lock/bin/pip install -q uv
	@$(COMPILE) --group build --group test --group lint --extra report --extra sandbox -o requirements.lock
	@$(COMPILE) --extra sandbox --constraint requirements.lock -o sandbox.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group build -o build.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group site -o site.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group release -o release.lock

# ARCHIVE names a mirror of snapshot.debian.org.
.PHONY: lock-packages
lock-packages: .venv/.built ## Lock the Debian packages in the images to yesterday's snapshot (on Debian, a few minutes)
	@$(BIN)/python -m tools.lock_packages $(ARCHIVE)

clean: ## Delete .venv, build/ and compiled files
	rm -rf .venv build *.egg-info _native/*.so _native/*.c
