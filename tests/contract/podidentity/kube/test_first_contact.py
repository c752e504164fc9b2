"""The wait for the API server at a program's start: every kind of failing connection is waited out, and reported in one
line. Excluded: responses and intervals (tests/unit/podidentity/kube/test_first_contact.py).
"""

import asyncio
import logging
import ssl

import pytest

from podidentity.kube import first_contact
from podidentity.kube.access import ClusterAccess
from podidentity.kube.sessions import OpenSession
from podidentity_sandbox.certificates import Authority
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.podidentity.kube.scripted import ScriptedServer
from tests.unit.podidentity.kube.test_first_contact import VERSION, awaited, new_contact


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_contact, "INTERVAL_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(first_contact, "INTERVAL_MOST_SECONDS", 0.1)


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.RESET, Mode.HANG, Mode.SILENT])
async def test_a_failing_connection_is_retried_until_it_succeeds(
    server: ScriptedServer, mode: Mode, caplog: pytest.LogCaptureFixture, open_session: OpenSession
) -> None:
    proxy = FaultProxy("127.0.0.1", int(server.url.rpartition(":")[2]))
    await proxy.start()
    await proxy.set_mode(mode)
    server.others += [VERSION] * 50
    contact = new_contact(ClusterAccess(f"http://127.0.0.1:{proxy.port}"), open_session)
    with caplog.at_level(logging.INFO):
        async with awaited(contact, "this machine's network") as waiting:
            assert str(proxy.port) in (contact.problem or "")
            await proxy.set_mode(Mode.PASS)
            await waiting
    await proxy.stop()
    first, last = caplog.records
    assert first.levelno == logging.WARNING
    assert "check that the API server runs" in first.__dict__["reason"]
    assert last.getMessage() == "the API server responds"


async def test_an_unresolvable_name_is_waited_for(open_session: OpenSession) -> None:
    contact = new_contact(ClusterAccess("http://no-such-host.invalid:1"), open_session)
    async with awaited(contact, "no-such-host.invalid"):
        pass


async def test_a_failing_tls_handshake_is_waited_for(open_session: OpenSession) -> None:
    context = await asyncio.to_thread(lambda: Authority().server_context())
    stranger = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = stranger.sockets[0].getsockname()[1]
    trusting = await asyncio.to_thread(ssl.create_default_context)
    contact = new_contact(ClusterAccess(f"https://127.0.0.1:{port}", ssl=trusting), open_session)
    async with awaited(contact, "certificate verify failed"):
        stranger.close()
