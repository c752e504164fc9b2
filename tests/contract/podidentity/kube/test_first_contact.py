"""The wait for the API server at a program's start: every kind of outage is waited out, and reported in one line."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podidentity.kube import first_contact
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError
from podidentity.kube.first_contact import FirstContact
from podidentity.kube.informer import Informer
from podidentity.kube.sessions import OpenSession
from podidentity.resources import PODS, Pod
from podidentity.telemetry.log_limit import LogLimit
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.faults import FaultProxy, Mode
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, page, status
from tests.support.waiting import until

WAIT_SECONDS = 20.0
VERSION = Reply({"gitVersion": "v1.30.0"})


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_contact, "INTERVAL_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(first_contact, "INTERVAL_MOST_SECONDS", 0.1)


@pytest.fixture
def _long_intervals(_short_intervals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send no second request, however long this machine takes for the first one."""
    monkeypatch.setattr(first_contact, "INTERVAL_FIRST_SECONDS", 60.0)
    monkeypatch.setattr(first_contact, "INTERVAL_MOST_SECONDS", 60.0)


@pytest.fixture
async def proxy(server: ScriptedServer) -> AsyncIterator[FaultProxy]:
    between = FaultProxy("127.0.0.1", int(server.url.rpartition(":")[2]))
    await between.start()
    yield between
    await between.stop()


NewContact = Callable[..., FirstContact]


@pytest.fixture
def new_contact(server: ScriptedServer, open_session: OpenSession) -> NewContact:
    """Returns a first contact, by default with the scripted server."""

    def made(access: ClusterAccess | None = None, **options: Any) -> FirstContact:
        usual = {"log_limit": LogLimit(), "open_session": open_session}
        return FirstContact(access or ClusterAccess(server.url), user_agent="test/1", **{**usual, **options})

    return made


@asynccontextmanager
async def awaited(contact: FirstContact, problem: str) -> AsyncIterator["asyncio.Task[None]"]:
    """Wait for the contact, which has this *problem* when the body begins. At its end the wait is cancelled."""
    waiting = asyncio.create_task(contact.made())
    await until(lambda: contact.problem and problem in contact.problem)
    assert not waiting.done()
    yield waiting
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def made(contact: FirstContact) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await contact.made()
    assert contact.problem is None


@pytest.mark.usefixtures("_long_intervals")
async def test_an_api_server_that_responds_gets_one_request_and_nothing_is_logged(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, new_contact: NewContact
) -> None:
    server.others.append(VERSION)
    contact = new_contact()
    assert contact.problem == "the API server has not responded yet"
    with caplog.at_level(logging.INFO):
        await made(contact)
    assert [each.path for each in server.requests] == ["/version"]
    assert caplog.records == []


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.RESET, Mode.HANG, Mode.SILENT])
async def test_a_failing_connection_is_retried_until_it_succeeds(
    server: ScriptedServer, proxy: FaultProxy, mode: Mode, caplog: pytest.LogCaptureFixture, new_contact: NewContact
) -> None:
    await proxy.set_mode(mode)
    server.others += [VERSION] * 50
    contact = new_contact(ClusterAccess(f"http://127.0.0.1:{proxy.port}"))
    with caplog.at_level(logging.INFO):
        async with awaited(contact, "this machine's network") as waiting:
            assert str(proxy.port) in (contact.problem or "")
            await asyncio.sleep(0.3)  # several requests, but one log line
            assert not waiting.done()
            await proxy.set_mode(Mode.PASS)
            async with asyncio.timeout(WAIT_SECONDS):
                await waiting
        await until(lambda: not proxy.open_connections)
    first, last = caplog.records
    assert first.levelno == logging.WARNING
    assert "check that the API server runs" in first.__dict__["reason"]
    assert last.getMessage() == "the API server responds"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(401, "Unauthorized", "no such token"), "no such token; check the service account's token"),
        (status(500, "InternalError", "etcd is gone"), "500 InternalError: etcd is gone; see the API server's log"),
        (status(503, "ServiceUnavailable"), "503 ServiceUnavailable"),
        (status(429, "TooManyRequests"), "it is overloaded"),
        (Reply(b"<html>", 404), "404"),
    ],
)
async def test_an_error_response_is_waited_out_and_named(
    server: ScriptedServer, answer: Reply, message: str, new_contact: NewContact
) -> None:
    server.others += [answer] * 1000
    async with awaited(new_contact(), message) as waiting:
        server.others.clear()
        server.others += [VERSION] * 10
        async with asyncio.timeout(WAIT_SECONDS):
            await waiting


@pytest.mark.usefixtures("_long_intervals")
async def test_a_user_without_permission_for_the_version_has_made_contact(
    server: ScriptedServer, new_contact: NewContact
) -> None:
    server.others.append(status(403, "Forbidden", "cannot get path /version"))
    await made(new_contact())
    assert len(server.requests) == 1


async def test_an_unresolvable_name_is_waited_for(new_contact: NewContact) -> None:
    async with awaited(new_contact(ClusterAccess("http://no-such-host.invalid:1")), "no-such-host.invalid"):
        pass


async def test_a_failing_tls_handshake_is_waited_for(new_contact: NewContact) -> None:
    context = await asyncio.to_thread(lambda: Authority().server_context())
    stranger = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = stranger.sockets[0].getsockname()[1]
    trusting = await asyncio.to_thread(ssl.create_default_context)
    contact = new_contact(ClusterAccess(f"https://127.0.0.1:{port}", ssl=trusting))
    async with awaited(contact, "certificate verify failed"):
        stranger.close()


async def test_temporarily_unreadable_credentials_are_waited_for(
    server: ScriptedServer, new_contact: NewContact
) -> None:
    readable = asyncio.Event()

    async def authorization() -> str:
        if not readable.is_set():
            raise AccessError("the kubeconfig is being written: correct it")
        return "Bearer x"

    server.others.append(VERSION)
    async with awaited(new_contact(ClusterAccess(server.url, authorization=authorization)), "is being written") as wait:
        readable.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await wait


async def test_a_slow_api_server_gets_the_time_that_it_needs(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, new_contact: NewContact
) -> None:
    """It answers the first request after several others: the first one may not be cut for a newer one."""
    real, begun, several = Client.request, 0, asyncio.Event()

    async def slow(client: Client, *args: Any, **options: Any) -> bytes:
        nonlocal begun
        begun += 1
        if begun > 5:
            several.set()
        await (several.wait() if begun == 1 else asyncio.Event().wait())
        return await real(client, *args, **options)

    monkeypatch.setattr(Client, "request", slow)
    server.others += [VERSION] * 50
    await made(new_contact())
    assert len(server.requests) == 1


def test_the_intervals_grow_are_randomised_and_leave_time_for_the_lists(
    monkeypatch: pytest.MonkeyPatch, new_contact: NewContact
) -> None:
    monkeypatch.undo()
    for random, expected in ((0.0, [0.5, 1.0, 1.5, 1.5]), (1.0, [1.0, 2.0, 3.0, 3.0])):
        contact = new_contact(random=lambda value=random: value)
        assert [contact._intervals.next() for _ in range(4)] == expected


class Crashing:
    """An API server whose connections from before `returned` never deliver another byte, in either direction."""

    def __init__(self) -> None:
        self.returned = False
        self.asked: list[str] = []
        self.open = 0
        self.slow_seconds = 0.0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.access = ClusterAccess(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}")

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        alive = self.returned
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                target = head.split(b" ")[1].decode()
                self.asked.append(target)
                if not alive or "watch" in target:
                    await reader.read()
                    return
                await asyncio.sleep(self.slow_seconds)
                reply = VERSION if target == "/version" else page(version="7")
                writer.write(reply.encoded())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def api() -> AsyncIterator[Crashing]:
    made = Crashing()
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def first_list(
    contact: FirstContact, access: ClusterAccess, open_session: OpenSession
) -> AsyncIterator["asyncio.Task[None]"]:
    """Wait for the first list of an informer, which has arrived at the end."""
    async with Client(access, user_agent="test/1", open_session=open_session) as client:
        informer = Informer(client, PODS, Recorder[Pod]())
        running = asyncio.create_task(informer.run())
        waiting = asyncio.create_task(contact.first_lists(client, [informer]))
        yield waiting
        async with asyncio.timeout(WAIT_SECONDS):
            await waiting
        assert (contact.problem, informer.problem) == (None, None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_at_most_two_requests_are_in_progress(api: Crashing, new_contact: NewContact) -> None:
    waiting = asyncio.create_task(new_contact(api.access).made())
    opened: list[int] = []

    def asked() -> int:
        opened.append(api.open)
        return len(api.asked)

    await until(asked, "ten requests", holds=(10).__le__)
    assert max(opened) <= 3, "two, and one that has been cut and whose end the server is about to see"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: api.open == 0)


async def test_a_first_list_whose_connection_was_lost_is_sent_again_on_a_new_one(
    api: Crashing, new_contact: NewContact, open_session: OpenSession
) -> None:
    """The list hangs on a half-open connection, which its own limit of 30 s would end much later."""
    contact = new_contact(api.access)
    async with first_list(contact, api.access, open_session) as waiting:
        await until(lambda: contact.problem is not None and len(api.asked) > 2)
        assert not waiting.done()
        api.returned = True


async def test_a_slow_first_list_is_not_interrupted(
    api: Crashing, new_contact: NewContact, open_session: OpenSession
) -> None:
    api.returned, api.slow_seconds = True, 0.5
    async with first_list(new_contact(api.access), api.access, open_session):
        pass
    assert sum(each.startswith("/api/v1/pods?limit") for each in api.asked) == 1


async def test_failing_first_lists_and_the_wait_share_one_log_line_a_minute(
    server: ScriptedServer,
    client: Client,
    recorder: Recorder[Pod],
    caplog: pytest.LogCaptureFixture,
    new_contact: NewContact,
) -> None:
    limit = LogLimit()
    server.others += [status(403, "Forbidden", "no right")] * 1000
    informers = [Informer(client, PODS, recorder, log_limit=limit, random=lambda: 0.001) for _ in range(3)]
    contact = new_contact(log_limit=limit)
    with caplog.at_level(logging.INFO):
        running = [asyncio.create_task(each.run()) for each in informers]
        waiting = asyncio.create_task(contact.first_lists(client, informers))
        await until(lambda: len(server.requests) > 30)
        assert not waiting.done()
    (line,) = caplog.records
    assert line.getMessage() == "not allowed to list or watch; grant this permission in the ClusterRole"
    assert informers[0].problem == f"{line.getMessage()} (403 Forbidden: no right)"
    for task in (waiting, *running):
        task.cancel()
    await asyncio.gather(waiting, *running, return_exceptions=True)
