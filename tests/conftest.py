"""Checks of every test: no blocking call in the event loop, no remaining task or thread, no secret in a log or in
captured output, no call that the chart's roles do not allow, no skipped test in CI.

The fixture `plane` is the real control plane, one per test process. Tests that use it create objects under unique names
or in a new namespace. Tests that stop, compact or configure a server start another one with `new_plane`.
"""

import asyncio
import functools
import gc
import inspect
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

from tests import selection
from tests.support import listed_programs, time_limit, waiting
from tests.support.checkout import ROOT
from tests.support.default_clocks import replace_default_clocks
from tests.support.examples import QUICK
from tests.support.kubectl_and_helm import Commands
from tests.support.leaks import Ledger
from tests.support.rights import Calls
from tests.support.testplane import up
from tests.support.virtual_time import VirtualTimeLoop
from tests.support.waiting import until_sync

OURS = ["podidentity", "nmi", "mic"]
SANDBOX = "podidentity_sandbox"
IN_CI = os.environ.get("CI") == "true"
# CI runs the same examples each time. New examples are tried by developers, and fail their runs only.
# On a busy machine any example, and its generation, may take long.
settings.register_profile(
    "all",
    deadline=None,
    derandomize=IN_CI or settings().derandomize,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("all")
settings.register_profile("quick", max_examples=QUICK)

LEDGER = Ledger()
LEDGER.listen(setattr)
CALLS = Calls()
CALLS.listen(setattr)
DOWNLOADS = selection.Downloads()
DOWNLOADS.listen(setattr)
PROGRAMS = selection.Programs()
PROGRAMS.listen(setattr)

# A parent such as `nohup make test &` ignores SIGINT, and child processes inherit that: tests of Ctrl-C would time out.
# A signal with a handler has its default action in a child. The handler ignores the signal here, as the parent asked.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--listed-programs", metavar="GROUPS", default="", help="tests find only programs of these packages"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.listed_programs and not hasattr(config, "workerinput"):  # test processes inherit the PATH
        listed_programs.restrict_path(config.option.listed_programs.split(","))
    gc.disable()  # until all tests are collected: their objects stay
    config.pluginmanager.register(time_limit)
    for name, text in selection.MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


@pytest.hookimpl(tryfirst=True)  # before -m deselects tests by the markers that are set here
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=selection.start_of)
    collected = config.stash.setdefault(selection.COLLECTED, [])
    for item in items:
        collected.append((item.nodeid, selection.mark(item)))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason=selection.MARKERS["root"]))


def pytest_collection_finish(session: pytest.Session) -> None:
    # A cold build takes minutes, which the time limit of a single test does not cover.
    if not session.config.option.collectonly and any(item.get_closest_marker("plane") for item in session.items):
        up.build()
    replace_default_clocks(OURS)
    # The garbage collector need not look again at all modules and tests. The marked objects stay until the end.
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the async tests of `unit` in virtual time."""
    return {"virtual": VirtualTimeLoop} if selection.is_virtual(item) else {"real": asyncio.SelectorEventLoop}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    markers = {marker.name for marker in item.iter_markers()}
    DOWNLOADS.test_needs(markers)
    PROGRAMS.test_needs(markers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.option.listed_programs and report.failed and report.longreprtext:
        report.sections.extend(listed_programs.advice(report.longreprtext))
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    if report.when == "teardown" and not report.failed:
        leak = LEDGER.found_in_logs() or LEDGER.found_in_sections(report.sections)
        if leak:
            report.outcome = "failed"
            report.longrepr = f"a secret was written during this test: {leak}"
        elif forbidden := list(CALLS.refused()):
            report.outcome = "failed"
            report.longrepr = f"sent requests that no role of the chart allows: {forbidden}"
    return report


def pytest_sessionfinish() -> None:
    CALLS.end(os.environ.get("CALLS_SEEN", ""))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.option.listed_programs and not listed_programs.is_restricted():
        terminalreporter.write_line(listed_programs.UNRESTRICTED)


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Raise BlockingError where the daemons' code blocks a running event loop. Tests and emulators may block.

    Its activation takes as long as a small test, and each one replaces the functions of `os` by new ones, which shutil
    does not know. So it is active for the whole session, and no test can end it.
    """
    # Modules match by the start of their path, so `podidentity` would include the sandbox.
    blockbuster = BlockBuster(OURS, excluded_modules=[SANDBOX])
    for function in blockbuster.functions.values():
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")  # the first import in a process
        function.can_block_in("podidentity/kube/access.py", "read_in_a_loop_of_its_own")  # in a thread
        function.can_block_in("podidentity/given_settings.py", "read_flags")  # argparse looks for translations
        function.can_block_predicate = outside_the_daemons(function.can_block_predicate)
    # shutil looks a function up in these sets by identity, and the active functions are not the original ones.
    names = {name: attribute for name in dir(os) if callable(attribute := getattr(os, name))}
    blockbuster.activate()
    for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        supported.update(getattr(os, name) for name, original in names.items() if original in supported)
    yield
    blockbuster.deactivate()


def outside_the_daemons(allowed: Callable[..., bool]) -> Callable[..., bool]:
    """Return a predicate for calls that *allowed* accepts, and for those without the daemons' code on the stack.

    BlockBuster accepts the latter too, but compares the path of each frame with each module again, which takes a fifth
    of the time of a test with many connections.
    """

    def predicate(*args: Any, **kwargs: Any) -> bool:
        if allowed(*args, **kwargs):
            return True
        frame = inspect.currentframe()
        while frame is not None:
            if in_a_daemon(frame.f_code.co_filename):
                return False
            frame = frame.f_back
        return True

    return predicate


@functools.cache
def in_a_daemon(path: str) -> bool:
    """Return whether the source file at *path* belongs to a package in OURS."""
    roots = (f"{ROOT / name}" for name in OURS)
    return path.startswith(tuple(roots)) and not path.startswith(f"{ROOT / SANDBOX}")


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Fail if a thread that the test started has not ended. The loop's executor threads end with the loop."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + waiting.LIMIT_SECONDS
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith(("asyncio_", "uvloop_")):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"thread {thread.name} has not ended"


@pytest.fixture(autouse=True)
def no_task_is_left_behind(request: pytest.FixtureRequest) -> None:
    """Fail if a task that the test started has not ended."""
    if isinstance(request.node, pytest.Function) and inspect.iscoroutinefunction(request.node.obj):
        request.getfixturevalue("_tasks_end")


@pytest.fixture
async def _tasks_end() -> AsyncIterator[None]:
    yield
    this, tasks = asyncio.current_task(), set[asyncio.Task[Any]]()
    try:
        async with asyncio.timeout(waiting.LIMIT_SECONDS):
            # No polling: in virtual time it costs as much as the tasks have left to wait.
            while tasks := asyncio.all_tasks() - {this}:
                await asyncio.wait(tasks)
    except TimeoutError:
        pytest.fail(f"tasks have not ended: {tasks}")


@pytest.fixture(autouse=True)
def virtual_time_is_not_left(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what takes real time to tests in virtual time: sockets, threads, processes and pauses."""
    if selection.is_virtual(request.node):
        for owner, name in (
            (socket.socket, "bind"),
            (socket.socket, "connect"),
            (socket.socket, "connect_ex"),
            (threading.Thread, "start"),
            (subprocess.Popen, "__init__"),
            (time, "sleep"),
        ):
            monkeypatch.setattr(owner, name, refusal_of(name))


def refusal_of(name: str) -> Callable[..., None]:
    """Return a function that fails the test which calls it, instead of the function *name*."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail(f"{name} in a test in virtual time")

    return refuse


@pytest.fixture
def ledger() -> Ledger:
    """Return the registry of secrets; a test adds those that it creates itself."""
    return LEDGER


NewPlane = Callable[..., up.Plane]


@pytest.fixture(scope="session")
def plane() -> Iterator[up.Plane]:
    """Yield the session's real control plane with our CustomResourceDefinitions: kube-apiserver, etcd, controllers."""
    with up.Plane() as running:
        apply_definitions(running)
        yield running


@pytest.fixture(autouse=True)
def nothing_of_ours_is_left_on_the_plane(request: pytest.FixtureRequest) -> Iterator[None]:
    """Delete all objects of our kinds from the session's control plane after each test that uses it."""
    yield
    if "plane" in request.fixturenames:
        clear(request.getfixturevalue("plane"))


@pytest.fixture
def new_plane() -> Iterator[NewPlane]:
    """Yield a function that starts a control plane for this test; its arguments are those of `up.Plane`."""
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
    """Delete all objects of our kinds, including those with finalizers."""
    for plural in OUR_KINDS:
        for item in running.api("GET", f"/apis/aadpodidentity.k8s.io/v1/{plural}")["items"]:
            meta = item["metadata"]
            path = f"/apis/aadpodidentity.k8s.io/v1/namespaces/{meta['namespace']}/{plural}/{meta['name']}"
            try:
                if meta.get("finalizers"):
                    free = [{"op": "remove", "path": "/metadata/finalizers"}]
                    running.api("PATCH", path, free, content_type="application/json-patch+json")
                if not meta.get("deletionTimestamp"):
                    running.api("DELETE", path)
            except RuntimeError as error:  # its namespace may be deleted, and the object with it
                if ": 404 " not in str(error):
                    raise


def apply_definitions(running: up.Plane, path: Path = ROOT / "deploy" / "crds") -> None:
    """Apply the definitions of our kinds with kubectl and wait until the kinds are served."""
    commands = Commands(running.kubeconfig)
    commands.kubectl("apply", "-f", str(path))
    commands.until_established("-f", str(path))
    for plural in OUR_KINDS:
        until_listed(running, f"/apis/aadpodidentity.k8s.io/v1/{plural}")


def until_listed(running: up.Plane, path: str) -> None:
    """Wait until the server lists the objects at *path*.

    After a definition was established or changed, it may still return 404, then 429 while the storage starts.
    """
    until_sync(lambda: running.api("GET", path), f"{path} is served", ignoring=RuntimeError)
