"""`mic` started while the API server is unavailable: it waits, reports why, and leads after the return.

docs/operations.md has the measured times, which are within 5 s. A loaded machine could miss them here.
"""

import asyncio
import urllib.error
from collections.abc import AsyncIterator

import pytest

from podidentity_sandbox.faults import FaultProxy, Mode
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.emulated_cloud import EmulatedCloud, Mic
from tests.support.waiting import until


@pytest.fixture
async def proxy(cloud: EmulatedCloud) -> AsyncIterator[FaultProxy]:
    between = FaultProxy("127.0.0.1", cloud.api.port)
    await between.start()
    path = cloud.folder / "kubeconfig"
    path.write_text(path.read_text().replace(f":{cloud.api.port}", f":{between.port}"))
    yield between
    for mic in cloud.running:
        if mic.process.returncode is None:
            mic.process.kill()
            await mic.process.wait()
    cloud.running.clear()
    await between.stop()


async def not_ready(mic: Mic, expected: str) -> str:
    """Return the text of /readyz as soon as it contains *expected*."""

    async def page() -> str:
        assert mic.process.returncode is None, mic.read_log()
        try:
            return await mic.page("/readyz")
        except urllib.error.HTTPError as error:
            return error.read().decode()

    return await until(page, mic.read_log, holds=lambda text: expected in text, ignoring=OSError)


def complaints(mic: Mic) -> list[str]:
    return [line for line in mic.read_log().splitlines() if line[:1] in {"W", "E"}]


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.SILENT, Mode.RESET])
async def test_mic_waits_logs_the_cause_and_becomes_active(cloud: EmulatedCloud, proxy: FaultProxy, mode: Mode) -> None:
    await proxy.set_mode(mode)
    mic = await cloud.mic(active=False)
    assert f"127.0.0.1:{proxy.port}" in await not_ready(mic, "check that the API server runs")
    assert await mic.page("/healthz") == "Not Active", "the kubelet's liveness probe must not end it"
    await proxy.set_mode(Mode.PASS)
    await cloud.active(mic)
    (line,) = complaints(mic)
    assert "no contact with the API server yet" in line
    assert await mic.stop() == 0


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (401, "Unauthorized", "check the service account's token"),
        (503, "ServiceUnavailable", "see the API server's log"),
    ],
)
async def test_an_api_server_that_rejects_requests_is_named_and_waited_for(
    cloud: EmulatedCloud, status: int, reason: str, expected: str
) -> None:
    cloud.api.intercept = lambda _request: StatusError(status, reason, "made up")
    mic = await cloud.mic(active=False)
    await not_ready(mic, expected)
    cloud.api.intercept = None
    await cloud.active(mic)
    assert len(complaints(mic)) == 1, "one line a minute"


async def test_a_forbidden_lock_is_logged_once_a_minute(cloud: EmulatedCloud) -> None:
    asked = 0

    def no_leases(request: object) -> StatusError | None:
        nonlocal asked
        if "/leases" not in getattr(request, "path", ""):
            return None
        asked += 1
        return StatusError(403, "Forbidden", "no right")

    cloud.api.intercept = no_leases
    mic = await cloud.mic(active=False)
    await cloud.until(lambda: asked >= 3)
    (line,) = complaints(mic)
    assert "grant get, create and update of it in the Role" in line
    cloud.api.intercept = None
    await cloud.active(mic)


async def test_sigterm_during_the_wait_ends_mic_cleanly(cloud: EmulatedCloud, proxy: FaultProxy) -> None:
    await proxy.set_mode(Mode.HANG)
    mic = await cloud.mic(active=False)
    await not_ready(mic, "no contact")
    async with asyncio.timeout(20.0):
        assert await mic.stop() == 0
