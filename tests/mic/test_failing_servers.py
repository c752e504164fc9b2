"""`python -m mic` while the API server or Resource Manager returns errors, does not respond, or closes connections.

The failures are shorter than a lease, because the process ends when it loses its lease. MIC must not send requests
without pauses or flood the log, and must continue its work after the failure.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from podidentity_sandbox.faults import FakeResponse, FaultProxy, Mode, StatusProxy
from tests.mic.emulated_cloud import EmulatedCloud, Mic, emulated_cloud
from tests.support.objects import vm_id

pytestmark = pytest.mark.programs

TROUBLE_SECONDS: Final = 3.0
REQUESTS_MOST: Final = 120
"""In that time, for five watches, the lease and the writes of a few objects together: tens; a busy loop thousands."""
LINES_MOST: Final = 150


@dataclass
class ReconcileBench:
    """The cloud, and MIC that reaches both servers through proxies."""

    cloud: EmulatedCloud
    mic: Mic
    api: StatusProxy
    arm: StatusProxy
    cables: dict[str, FaultProxy]


@asynccontextmanager
async def _proxied_cloud(folder: Path) -> AsyncIterator[ReconcileBench]:
    async with emulated_cloud(folder) as cloud:
        inside, outside = cloud.api.authority.client_context(), cloud.api.authority.server_context()
        proxies = [
            StatusProxy(url, upstream_tls=inside, serving_tls=outside) for url in (cloud.api.server, cloud.arm.url)
        ]
        cables: list[FaultProxy] = []
        for proxy, file in zip(proxies, ("kubeconfig", "cloud.json"), strict=True):
            await proxy.start()
            cables.append(FaultProxy("127.0.0.1", proxy.port))
            await cables[-1].start()
            path = folder / file
            path.write_text(path.read_text().replace(proxy.upstream, f"https://127.0.0.1:{cables[-1].port}"))
        try:
            for name in ("n0", "n1"):
                cloud.node(name)
            cloud.identity()
            cloud.pod("stays", "n0")
            cloud.pod("goes", "n1")
            mic = await cloud.mic("--leader-election-duration=30s")
            await cloud.until(lambda: cloud.assigned() == dict.fromkeys(_names("stays", "goes"), "Assigned"))
            yield ReconcileBench(cloud, mic, proxies[0], proxies[1], {"api": cables[0], "arm": cables[1]})
        finally:
            for cable in cables:
                await cable.stop()
            for proxy in proxies:
                await proxy.stop()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[ReconcileBench]:
    async with _proxied_cloud(tmp_path) as made:
        yield made


def _names(*pods: str) -> list[str]:
    return [f"{pod}-default-demo" for pod in pods]


async def _endures(stage: ReconcileBench, ends: Callable[[], object]) -> None:
    """Create and delete pods during a failure that *ends* later. Afterwards the state is correct."""
    before, lines = _requests(stage), len(stage.mic.read_log().splitlines())
    stage.cloud.pod("comes", "n1")
    stage.cloud.remove_pod("goes")
    stage.cloud.remove_pod("stays")
    stage.cloud.pod("stays", "n1")
    await asyncio.sleep(TROUBLE_SECONDS)
    assert stage.mic.process.returncode is None, stage.mic.read_log()
    assert _requests(stage) - before < REQUESTS_MOST
    assert len(stage.mic.read_log().splitlines()) - lines < LINES_MOST
    await asyncio.wait_for(_awaited(ends()), 5.0)
    await stage.cloud.until(
        lambda: (
            stage.cloud.assigned() == dict.fromkeys(_names("comes", "stays"), "Assigned")
            and not stage.cloud.on(vm_id("n0"))
            and stage.cloud.on(vm_id("n1")) == {"demo"}
        ),
        "what must be after the trouble",
    )
    assert "Traceback" not in stage.mic.read_log()


async def _awaited(result: object) -> None:
    if asyncio.iscoroutine(result):
        await result


def _requests(stage: ReconcileBench) -> int:
    return sum(
        proxy.passed + sum(proxy.responses.values()) + cable.counts.accepted
        for proxy, cable in ((stage.api, stage.cables["api"]), (stage.arm, stage.cables["arm"]))
    )


def _refusal(status: int, retry_after: str = "") -> FakeResponse:
    body = {"kind": "Status", "status": "Failure", "code": status, "error": {"code": "Trouble", "message": "ordered"}}
    headers = {"Content-Type": "application/json"} | ({"Retry-After": retry_after} if retry_after else {})
    return FakeResponse(status, json.dumps(body).encode(), headers)


@pytest.mark.parametrize(
    "answer", [_refusal(500), _refusal(409), _refusal(429, "1"), _refusal(410)], ids=lambda a: a.status
)
async def test_an_api_server_that_returns_errors(stage: ReconcileBench, answer: FakeResponse) -> None:
    stage.api.respond(answer)
    stage.cloud.api.compact()
    stage.cloud.api.drop_watches()
    await _endures(stage, stage.api.clear)


@pytest.mark.parametrize("answer", [_refusal(500), _refusal(409), _refusal(429, "2")], ids=lambda a: a.status)
async def test_a_resource_manager_that_returns_errors(stage: ReconcileBench, answer: FakeResponse) -> None:
    stage.arm.respond(answer)
    await _endures(stage, stage.arm.clear)


@pytest.mark.parametrize(
    ("server", "mode"),
    [("api", Mode.REFUSE), ("api", Mode.SILENT), ("arm", Mode.RESET), ("arm", Mode.SILENT)],
    ids=lambda each: getattr(each, "value", each),
)
async def test_an_unreachable_server(stage: ReconcileBench, server: str, mode: Mode) -> None:
    cable = stage.cables[server]
    await cable.set_mode(mode)
    if mode is Mode.REFUSE:
        await cable.reset_connections()
    await _endures(stage, lambda: cable.set_mode(Mode.PASS))


@pytest.mark.parametrize("server", ["api", "arm"])
async def test_a_slow_server(stage: ReconcileBench, server: str) -> None:
    stage.cables[server].pace.latency_seconds = 0.3
    await _endures(stage, lambda: setattr(stage.cables[server].pace, "latency_seconds", 0.0))
