"""The make target that runs a test: `make check`, `make test` or `make test-all`.

Markers state what a test needs. Some are set here, by fixture or directory; the others are written in the test module.
The needs of a test determine its target, so that each test has exactly one:

* `make check` runs tests that need nothing but the Python environment.
* `make test` adds tests that need root, or the programs running in a sandbox.
* `make test-all` adds tests that need programs of others (`make test-tools`) or the control plane of
  tests/support/testplane (`make test-plane`), and those that measure.
* `make e2e-node` runs tests on the real nodes of tests/system/node. `make test-node` runs those without the marker
  `long`, where the machine permits nodes. It is a part of `make test-all`.
* `make e2e-cilium` runs the tests that need a built Cilium agent in addition.
* `make test-nightly` runs tests that guard a release and not each change, by the marker `nightly`.
"""

import asyncio
import functools
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

import pytest
from hypothesis import is_hypothesis_test

from tests.support.testplane import up

COLLECTED: Final = pytest.StashKey[list[tuple[str, frozenset[str]]]]()
"""The id and the markers of each collected test, also of those that -m deselects."""
TESTS: Final = Path(__file__).parent
MARKERS: Final = {
    "root": "needs root, for network namespaces, NAT rules or a program that only root installs",
    "plane": "needs the real control plane of tests/support/testplane, or kubectl, which is built with it",
    "tools": "needs a program of others: helm, Prometheus, nginx, a browser, valgrind, pip or a C compiler",
    "programs": "runs MIC, NMI or podidctl as processes on the emulators",
    "examples": "runs all its examples in `make nightly`, and a quarter in `make check` or `make test`",
    "measures": "measures delays, memory or CPU time, and runs alone",
    "images": "needs the images of `make local-images`",
    "model": "needs the model checker spin",
    "sdks": "needs the applications of tests/system/sdks",
    "node": "needs a real node of tests/system/node and the images of `make local-images`",
    "cilium": "needs a Cilium agent that tests/system/node/cilium_agent/build.sh built",
    "nightly": "guards a release and not each change: runs in `make nightly` only",
    "long": "takes minutes on a real node, and is not a part of `make e2e-node-quick`",
    "run_check": "runs in `make check`; set here on every test",
    "run_test": "runs in `make test`; set here on every test",
    "run_test_all": "runs in `make test-all`; set here on every test",
    "run_nightly": "runs in `make nightly`; set here on every test",
    "run_node": "runs in `make e2e-node`; set here on every test",
    "run_cilium": "runs in `make e2e-cilium`; set here on every test",
}

PLANE_FIXTURES: Final = frozenset({"plane", "new_plane", "kwok_plane", "short_memory_server", "kubectl"})
PROGRAM_FIXTURES: Final = frozenset({"cloud", "sandbox"})
DIRECTORIES: Final = {
    "nightly/model": "model",
    "nightly/soak": "programs",
    "repository/deploy": "tools",
    "repository/observability": "tools",
    "repository/packaging": "tools",
    "system/images": "images",
    "system/local/integration": "programs",
    "system/node/on_cilium": "cilium",
    "system/node/scenarios": "node",
    "system/plane/deploy": "tools",
    "system/sdks": "sdks",
}
"""The marker of all tests in a directory."""
LONG: Final = (
    "unit/mic/history/test_any_history.py",
    "unit/mic/history/test_failing_servers.py",
    "system/local/integration/test_handover.py",
    "system/local/integration/test_handover_of_rules.py",
    "system/plane/sandbox/cloud/test_sandbox_up.py",
    "unit/mic/history/test_killed_at_every_call.py",
    "contract/native/test_lanes_agree.py",
    "system/local/podidctl/faults/test_fault_table.py",
    "system/local/migration/test_switching_in_the_sandbox.py",
    "system/local/podidctl/access/test_the_real_program.py",
    "system/local/mic/test_the_real_program.py",
    "nightly/soak/test_short_soak.py",
    "system/plane/sandbox/cloud/test_demos.py",
    "unit/mic/history/test_broken_controllers_are_noticed.py",
    "contract/podidentity/kube/test_access.py",
    "unit/mic/preview/test_preview_equals_execution.py",
)
"""Files that take long. They start first, so that no process idles while another one ends with such a file."""
UNIT: Final = "unit"
"""The folder whose tests run in virtual time, without sockets, threads and processes."""
IN_TEST_ALL: Final = frozenset({"tools", "plane", "measures", "images", "model", "sdks"})
IN_TEST: Final = frozenset({"root", "programs"})


@functools.cache
def needs_of_path(path: PurePath) -> tuple[str, ...]:
    """Return the markers that follow from the *path* of a test, relative to tests/."""
    return tuple(marker for directory, marker in DIRECTORIES.items() if path.is_relative_to(directory))


def needs_of(path: PurePath, fixtures: frozenset[str]) -> Iterator[str]:
    """Yield the markers that follow from the *path* of a test, relative to tests/, and from its *fixtures*."""
    yield from needs_of_path(path)
    if fixtures & PLANE_FIXTURES:
        yield "plane"
    if fixtures & PROGRAM_FIXTURES:
        yield "programs"


def run_of(markers: frozenset[str]) -> str:
    """Return the marker of the target that runs a test with these *markers*."""
    if "cilium" in markers:
        return "run_cilium"
    if "node" in markers:
        return "run_node"
    if "nightly" in markers:
        return "run_nightly"
    if markers & IN_TEST_ALL:
        return "run_test_all"
    return "run_test" if markers & IN_TEST else "run_check"


def is_virtual(item: pytest.Item) -> bool:
    """Return whether *item* runs in virtual time."""
    return _relative(item.path).is_relative_to(UNIT)


def start_of(item: pytest.Item) -> int:
    """Return the key by which the items are sorted: files in LONG first. Other items keep their order."""
    return _START.get(str(_relative(item.path)), len(LONG))


_START: Final = {path: number for number, path in enumerate(LONG)}


@functools.cache
def _relative(path: Path) -> Path:
    return path.relative_to(TESTS) if path.is_relative_to(TESTS) else Path(path.name)


def mark(item: pytest.Item) -> frozenset[str]:
    """Add to *item* the markers of its needs and of its target. Return all its markers."""
    fixtures = frozenset(item.fixturenames) if isinstance(item, pytest.Function) else frozenset[str]()
    for marker in needs_of(_relative(item.path), fixtures):
        item.add_marker(marker)
    if is_hypothesis_test(getattr(item, "obj", None)):
        item.add_marker("examples")
    needs = frozenset(marker.name for marker in item.iter_markers())
    run = run_of(needs)
    item.add_marker(run)
    return needs | {run}


class Downloads:
    """Guard of the downloaded programs: only tests with the marker `plane`, `tools` or `node` use them.

    Without it, a test without that marker would download or compile a program during `make check`.
    """

    def __init__(self) -> None:
        self._needs: set[str] | None = None

    def test_needs(self, markers: set[str]) -> None:
        """Take *markers* as those of the test that now starts. Before the first test everything is allowed."""
        self._needs = markers

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Check the calls of tests/support/testplane. *patch* replaces an attribute of a module."""
        build, tool = up.build, up.tool

        def checked_build() -> Path:
            self._require("plane", "node")
            return build()

        def checked_tool(name: str) -> Path:
            self._require(
                *({"plane", "node"} if name in {"actionlint", "d2", "kubectl"} else {"plane", "tools", "node"})
            )
            return tool(name)

        patch(up, "build", checked_build)
        patch(up, "tool", checked_tool)

    def _require(self, *markers: str) -> None:
        if self._needs is not None and self._needs.isdisjoint(markers):
            raise RuntimeError(f"the test uses a downloaded program; add the marker {' or '.join(sorted(markers))}")


PROGRAMS: Final = frozenset({"mic", "nmi", "podidctl", "kubectl-podidentity"})
"""Modules and scripts of the programs."""


def starts_program(argv: Sequence[str]) -> bool:
    """Return whether the command starts MIC, NMI or podidctl, also behind a command such as setpriv or ip netns."""
    modules = (module for option, module in itertools.pairwise(argv) if option == "-m")
    scripts = (PurePath(argument).name for argument in argv if PurePath(argument).parent.name == "bin")
    return not PROGRAMS.isdisjoint({*modules, *scripts, *argv[:1]})


class Programs:
    """Guard of the programs: only tests outside `make check` start MIC, NMI or podidctl as processes.

    Such a test takes seconds, or half a minute on a busy machine, and then fails for reasons that are not the change.
    """

    def __init__(self) -> None:
        self._allowed = True

    def test_needs(self, markers: set[str]) -> None:
        """Take *markers* as those of the test that now starts. Before the first test everything is allowed."""
        self._allowed = not markers.isdisjoint({*IN_TEST, *IN_TEST_ALL, "node"})

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Check the started processes. *patch* replaces an attribute of a class or module."""
        begin, create = subprocess.Popen.__init__, asyncio.create_subprocess_exec

        @functools.wraps(begin)
        def checked_begin(this: "subprocess.Popen[Any]", args: Any, *rest: Any, **options: Any) -> None:
            self._check([args] if isinstance(args, str | bytes | os.PathLike) else args)
            begin(this, args, *rest, **options)

        @functools.wraps(create)
        async def checked_create(*argv: Any, **options: Any) -> asyncio.subprocess.Process:
            self._check(argv)  # uvloop starts processes without Popen
            return await create(*argv, **options)

        patch(subprocess.Popen, "__init__", checked_begin)
        patch(asyncio, "create_subprocess_exec", checked_create)

    def _check(self, argv: Sequence[Any]) -> None:
        if not self._allowed and starts_program([os.fsdecode(argument) for argument in argv]):
            raise RuntimeError("the test starts a program of this project as a process; add the marker programs")
