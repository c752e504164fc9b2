"""A signal during `podidctl verify`: no canary pod stays, and what cannot be deleted is named."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import typer

from podidctl.commands.signals import SIGNALS
from podidctl.report.finding import Level
from podidctl.verify import command, verification
from podidctl.verify.canary_runner import DELETE_SECONDS, CanaryRunner
from podidctl.verify.pod import CANARY_LABELS, CANARY_SELECTOR
from podidctl.verify.verdicts import Verification
from podidctl.verify.verification import NAME_PREFIX
from podidentity.kube.client import Client
from podidentity.kube.errors import Forbidden
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.podidctl.memory_cluster import MemoryCluster
from tests.support.virtual_time import now

NODES = 3


@pytest.fixture
def installed(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    """A cluster whose kubelets never start a canary pod."""
    for number in range(NODES):
        meta = {"name": f"n{number}", "labels": {"kubernetes.io/os": "linux"}}
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        cluster.api.store.create("nodes", {"metadata": meta, "status": ready})
    cluster.daemon("nmi-1", hostNetwork=True)

    @contextlib.asynccontextmanager
    async def connect(_: object) -> AsyncIterator[Client]:
        yield cluster.client

    monkeypatch.setattr(command, "connect", connect)
    return cluster


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Restore the handlers that pytest has. No signal is ignored, also if the tests run under nohup."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def verify(timeout: int = 60) -> Verification:
    return await command._run(None, (), "", NODES, timeout)  # type: ignore[arg-type]  # the fixture connects


def canaries(cluster: MemoryCluster) -> list[str]:
    pods = cluster.api.store.list("pods")
    return [pod["metadata"]["name"] for pod in pods if CANARY_LABELS.items() <= pod["metadata"]["labels"].items()]


def on_request(cluster: MemoryCluster, react: Callable[[Recorded], None]) -> None:
    record = cluster.api.record

    def also_react(request: Recorded) -> None:
        record(request)
        react(request)

    cluster.api.record = also_react  # type: ignore[method-assign]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_no_pod_stays_after_a_signal_during_any_request_for_a_canary(
    installed: MemoryCluster, method: str, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Recorded] = []

    def interrupt(request: Recorded) -> None:
        if request.method == method and "/namespaces/default/pods" in request.path and "nmi-1" not in request.path:
            seen.append(request)
            if len(seen) == NODES:
                signal.raise_signal(number)

    on_request(installed, interrupt)
    with pytest.raises(typer.Exit) as ended:
        await verify()
    assert ended.value.exit_code == 128 + number
    assert len(seen) >= NODES
    assert canaries(installed) == []
    assert capsys.readouterr() == ("", "")


async def test_further_signals_do_not_end_the_deletion(installed: MemoryCluster) -> None:
    def interrupt(request: Recorded) -> None:
        if request.method == "DELETE" or (request.method == "GET" and "/pods/podidctl-verify" in request.path):
            for number in SIGNALS:
                signal.raise_signal(number)

    on_request(installed, interrupt)
    with pytest.raises(typer.Exit):
        await verify()
    assert canaries(installed) == []


async def test_a_signal_before_the_first_canary_creates_none(installed: MemoryCluster) -> None:
    on_request(installed, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(typer.Exit):
        await verify()
    assert installed.api.written("/pods") == []


async def test_a_creation_that_takes_effect_late_is_awaited(
    installed: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = installed.client.create

    async def late(*given: object) -> object:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(DELETE_SECONDS / 2)
        return await create(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(installed.client, "create", late)
    with pytest.raises(typer.Exit):
        await verify()
    assert len(installed.api.written("/namespaces/default/pods")) == 2 * NODES
    assert canaries(installed) == []


async def test_asyncio_reports_no_creation_that_is_refused_after_a_signal(
    installed: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    creations: list[asyncio.Task[object] | None] = []

    async def late(*_: object) -> object:
        creations.append(asyncio.current_task())
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(1)
        raise Forbidden(403, "Forbidden", "exceeded quota")

    monkeypatch.setattr(installed.client, "create", late)
    with pytest.raises(typer.Exit):
        await verify()
    # The attribute is what asyncio itself reads when it deletes a task.
    assert [task and task._log_traceback for task in creations] == [False] * NODES


def leave(cluster: MemoryCluster, *names: str) -> None:
    """Create the canaries of killed commands."""
    for name in names:
        meta = {"name": name, "namespace": "default", "labels": CANARY_LABELS}
        spec = {"containers": [{"name": "canary", "image": "i"}]}
        cluster.api.store.create("pods", {"metadata": meta, "spec": spec})


async def test_the_canary_of_a_killed_command_is_deleted_by_one_an_hour_later(
    installed: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{NAME_PREFIX}1-0123456789"
    leave(installed, name)
    await verify(30)
    assert canaries(installed) == [name], "another command may still wait for it"
    monkeypatch.setattr(verification, "LEFTOVER_SECONDS", -3600)
    await verify(30)
    assert canaries(installed) == []


async def test_canaries_of_killed_commands_are_deleted_in_the_time_of_one(
    installed: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_is_leftover", lambda *_: True)
    leave(installed, *(f"podidctl-verify-{number}" for number in range(3)))
    on_request(installed, lambda request: installed.api.pause() if request.method == "DELETE" else None)
    runner = CanaryRunner(installed.client)
    began = now()
    await verification._delete_leftovers(installed.client, runner, "default")
    assert now() - began <= DELETE_SECONDS
    assert len(runner.not_deleted) == 3
    installed.api.resume()


@pytest.mark.parametrize("interrupted", [True, False])
@pytest.mark.parametrize(
    "failure", [{"code": 500, "reason": "InternalError"}, {}], ids=["the server fails", "no response"]
)
async def test_the_command_for_the_remaining_pods_is_printed(
    installed: MemoryCluster, failure: Mapping[str, object], interrupted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if failure:
        installed.api.refuse(500, "InternalError", "DELETE")

    def react(request: Recorded) -> None:
        if request.method == "DELETE" and not failure:
            installed.api.pause()
        if request.method == "GET" and "/pods/podidctl-verify" in request.path and interrupted:
            signal.raise_signal(signal.SIGTERM)

    on_request(installed, react)
    began = now()
    if interrupted:
        with pytest.raises(typer.Exit):
            await verify()
    else:
        report = await verify(30)
        assert {node.level for node in report.nodes} == {Level.UNKNOWN}
        assert report.not_deleted == sorted(canaries(installed))
    assert now() - began <= DELETE_SECONDS + (1 if interrupted else 31)
    names = " ".join(sorted(canaries(installed)))
    output = capsys.readouterr()
    assert output.err == f"podidctl: could not delete 3 canary pods: kubectl delete pod -n default {names}\n"


async def test_many_remaining_pods_are_named_by_their_labels(
    installed: MemoryCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PARALLEL_MAX", NODES - 1)
    installed.api.refuse(500, "InternalError", "DELETE")
    await verify(30)
    assert f"kubectl delete pod -n default -l {CANARY_SELECTOR}\n" in capsys.readouterr().err


async def test_a_creation_without_a_response_does_not_delay_the_end(
    installed: MemoryCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(request: Recorded) -> None:
        if request.method == "POST" and request.path.endswith("/pods"):
            installed.api.pause()
            signal.raise_signal(signal.SIGINT)

    on_request(installed, interrupt)
    began = now()
    with pytest.raises(typer.Exit):
        await verify()
    assert now() - began <= DELETE_SECONDS
    assert capsys.readouterr().err.count(" podidctl-verify-") == NODES
    installed.api.resume()


async def test_an_ignored_signal_stays_ignored(installed: MemoryCluster) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    on_request(installed, lambda _: signal.raise_signal(signal.SIGHUP))
    assert len((await verify(30)).nodes) == NODES
