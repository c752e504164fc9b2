"""`nmi` started while the API server is unavailable: it waits, reports why, and is active after the return.

docs/operations.md has the measured times, which are within 5 s. A loaded machine could miss them here.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.faults import Mode
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.node.unavailable_api_server import Away, start_without_api_server

pytestmark = pytest.mark.programs


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[Away]:
    async with start_without_api_server(tmp_path) as made:
        yield made


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.SILENT, Mode.RESET])
async def test_nmi_waits_logs_the_cause_and_becomes_active(away: Away, mode: Mode) -> None:
    await away.proxy.set_mode(mode)
    nmi = await away.nmi()
    await nmi.until("/readyz", lambda status, text: status >= 500 and "no contact with the API server" in text)
    assert await nmi.page("/healthz") == (200, "Not Active"), "the kubelet's liveness probe must not end it"
    _, ready = await nmi.page("/readyz")
    assert f"127.0.0.1:{away.proxy.port}" in ready
    assert "check that the API server runs" in ready
    await asyncio.sleep(1.0)
    await away.proxy.set_mode(Mode.PASS)
    await nmi.active()
    warnings = [each["message"] for each in nmi.lines() if each["level"] != "info"]
    assert warnings == ["no contact with the API server yet; correct the cause in the reason, a restart is not needed"]
    assert (await nmi.page("/readyz"))[0] == 200
    assert await nmi.stop() < 20.0


@pytest.mark.parametrize(
    ("status", "reason", "check", "expected"),
    [
        (401, "Unauthorized", "api server", "check the service account's token"),
        (403, "Forbidden", "watches", "not allowed to list or watch; grant this permission in the ClusterRole"),
        (500, "InternalError", "api server", "see the API server's log"),
        (503, "ServiceUnavailable", "api server", "see the API server's log"),
    ],
)
async def test_an_api_server_that_rejects_requests_is_named_and_waited_for(
    away: Away, status: int, reason: str, check: str, expected: str
) -> None:
    away.api.intercept = lambda _request: StatusError(status, reason, "made up")
    nmi = await away.nmi()
    await nmi.until("/readyz", lambda _status, text: expected in text)
    _, ready = await nmi.page("/readyz")
    assert f"[-]{check}: " in ready
    assert "made up" in ready
    assert await nmi.page("/healthz") == (200, "Not Active")
    away.api.intercept = None
    await nmi.active()
    assert sum(each["level"] != "info" for each in nmi.lines()) == 1, "one line a minute"


async def test_an_outage_between_the_first_response_and_the_lists_is_waited_out(away: Away) -> None:
    lists = 0

    def only_the_version(request: object) -> StatusError | None:
        nonlocal lists
        if getattr(request, "path", "") == "/version":
            return None
        lists += 1
        return StatusError(503, "ServiceUnavailable", "etcd is away")

    away.api.intercept = only_the_version
    nmi = await away.nmi()
    await nmi.until("/readyz", lambda _status, text: "etcd is away" in text)
    before = lists
    await asyncio.sleep(5.0)
    assert lists - before < 40, "three watches, each with pauses of 2 s on average"
    away.api.intercept = None
    await nmi.active()


async def test_sigterm_during_the_wait_ends_nmi_cleanly(away: Away) -> None:
    await away.proxy.set_mode(Mode.HANG)
    nmi = await away.nmi()
    await nmi.until("/readyz", lambda _status, text: "no contact" in text)
    assert await nmi.stop() < 20.0
    assert nmi.lines()[-1]["message"] == "nmi stopped"


async def test_a_missing_kubeconfig_still_ends_nmi_with_one_line(away: Away) -> None:
    (away.folder / "kubeconfig").unlink()
    nmi = await away.nmi()
    async with asyncio.timeout(20.0):
        assert await nmi.process.wait() == 1
    *_, last = nmi.read_log().splitlines()
    assert last.startswith("nmi: the kubeconfig")
