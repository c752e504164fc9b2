"""What holds for every test: no blocking call in the loop, no task or thread left behind, no secret in anything that
was written, no silent skips in CI.

Also the real control plane (`plane`), one for the whole session: whoever uses it makes objects under names or in a
namespace of its own. Tests that stop, compact or configure a server start one of their own with `new_plane`.
"""

import asyncio
import inspect
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

from tests.leaks import Ledger
from tests.rights import Calls
from tests.testplane import up

ROOT = Path(__file__).parent.parent
OURS = ["podidentity", "nmi", "mic"]
IN_CI = os.environ.get("CI") == "true"
# In CI the same examples each time: what only a new one can show is looked for by developers, and fails their runs.
settings.register_profile("ci", derandomize=True)
if IN_CI:
    settings.load_profile("ci")

LEDGER = Ledger()
LEDGER.listen(setattr)
CALLS = Calls()
CALLS.listen(setattr)

SETTLE_SECONDS = 2.0
"""How long a thread or task that is on its way out may take to be gone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and nat rules of its own"))
        if item.get_closest_marker("plane") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))  # on a busy machine the control plane alone takes ten seconds


def pytest_collection_finish(session: pytest.Session) -> None:
    # Minutes when cold, and then no single test's time limit should have to cover it.
    if not session.config.option.collectonly and any(item.get_closest_marker("plane") for item in session.items):
        up.build()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing may be: {report.longrepr}"
    if report.when == "teardown" and not report.failed:
        leak = LEDGER.found_in_logs() or LEDGER.found_in_sections(report.sections)
        if leak:
            report.outcome = "failed"
            report.longrepr = f"something secret was written during this test: {leak}"
        elif forbidden := list(CALLS.refused()):
            report.outcome = "failed"
            report.longrepr = f"called what no role of the chart allows: {forbidden}"
    return report


def pytest_sessionfinish() -> None:
    CALLS.end(os.environ.get("CALLS_SEEN", ""))


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    """A blocking call in a running loop by the daemons' code raises BlockingError. Tests and emulators may block."""
    # Modules are matched by the start of their path, so `podidentity` would include the sandbox.
    with blockbuster_ctx(OURS, excluded_modules=["podidentity_sandbox"]) as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")  # a first import, once a process
            function.can_block_in("podidentity/kube/access.py", "read_in_a_loop_of_its_own")  # a thread's, not ours
        yield blockbuster


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Every thread that a test started has ended; the loop's own executor threads end with the loop."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith(("asyncio_", "uvloop_")):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"thread {thread.name} was left behind"


@pytest.fixture(autouse=True)
def no_task_is_left_behind(request: pytest.FixtureRequest) -> None:
    """Every task that a test started has ended, whoever owned it."""
    if isinstance(request.node, pytest.Function) and inspect.iscoroutinefunction(request.node.obj):
        request.getfixturevalue("_tasks_end")


@pytest.fixture
async def _tasks_end() -> AsyncIterator[None]:
    yield
    mine = asyncio.current_task()
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := [task for task in asyncio.all_tasks() if task is not mine]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        await asyncio.sleep(0.001)


@pytest.fixture
def ledger() -> Ledger:
    """What of everything written is secret; a test notes what it made up itself."""
    return LEDGER


NewPlane = Callable[..., up.Plane]


@pytest.fixture(scope="session")
def plane() -> Iterator[up.Plane]:
    """The session's real control plane with our CustomResourceDefinitions: kube-apiserver, etcd, controllers."""
    with up.Plane() as running:
        apply_definitions(running)
        yield running


@pytest.fixture(autouse=True)
def nothing_of_ours_is_left_on_the_plane(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next user of the session's control plane finds no object of our kinds, in whatever namespace."""
    yield
    if "plane" in request.fixturenames:
        clear(request.getfixturevalue("plane"))


@pytest.fixture
def new_plane() -> Iterator[NewPlane]:
    """Starts control planes of the test's own; arguments are those of `up.Plane`. They end with the test."""
    started: list[up.Plane] = []

    def start(**options: Any) -> up.Plane:
        started.append(up.Plane(**options))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()


OUR_KINDS = ("azureidentities", "azureidentitybindings", "azureassignedidentities", "azurepodidentityexceptions")


def clear(running: up.Plane) -> None:
    """Delete all objects of our kinds, whatever finalizer holds them."""
    for plural in OUR_KINDS:
        for each in running.api("GET", f"/apis/aadpodidentity.k8s.io/v1/{plural}")["items"]:
            meta = each["metadata"]
            path = f"/apis/aadpodidentity.k8s.io/v1/namespaces/{meta['namespace']}/{plural}/{meta['name']}"
            try:
                if meta.get("finalizers"):
                    free = [{"op": "remove", "path": "/metadata/finalizers"}]
                    running.api("PATCH", path, free, content_type="application/json-patch+json")
                if not meta.get("deletionTimestamp"):
                    running.api("DELETE", path)
            except RuntimeError as error:  # its namespace may be going, and the object with it
                if ": 404 " not in str(error):
                    raise


def apply_definitions(running: up.Plane, path: Path = ROOT / "deploy" / "crds") -> None:
    """Apply definitions of our kinds with the real kubectl and wait until the kinds are served."""
    kubectl = [str(up.tool("kubectl")), f"--kubeconfig={running.kubeconfig}"]
    definitions = str(path)
    subprocess.run([*kubectl, "apply", "-f", definitions], check=True, capture_output=True, timeout=60)
    wait = [*kubectl, "wait", "--for=condition=Established", "--timeout=30s", "-f", definitions]
    subprocess.run(wait, check=True, capture_output=True, timeout=60)
    # Established is not all: for a moment a list may still be answered by 404, then by 429 while the storage starts.
    deadline = time.monotonic() + 20
    for plural in OUR_KINDS:
        while True:
            try:
                running.api("GET", f"/apis/aadpodidentity.k8s.io/v1/{plural}")
                break
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
