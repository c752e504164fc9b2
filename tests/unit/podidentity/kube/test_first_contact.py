"""The wait for the API server at a program's start, in virtual time.

Excluded: failing connections (tests/contract/podidentity/kube/test_first_contact.py).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from typing_extensions import override

from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError
from podidentity.kube.first_contact import FirstContact
from podidentity.kube.informer import Informer
from podidentity.kube.sessions import OpenSession
from podidentity.resources import PODS, Pod
from podidentity.telemetry.log_limit import LogLimit
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import URL, Reply, ScriptedServer, page, status
from tests.support.virtual_time import now
from tests.support.waiting import until

VERSION = Reply({"gitVersion": "v1.30.0"})
ACCESS = ClusterAccess(URL)


def new_contact(access: ClusterAccess, open_session: OpenSession, **options: Any) -> FirstContact:
    return FirstContact(access, user_agent="test/1", open_session=open_session, **{"log_limit": LogLimit(), **options})


@pytest.fixture
async def contact(open_session: OpenSession) -> FirstContact:
    """A first contact with the scripted server, made in virtual time, which its log limit measures."""
    return new_contact(ACCESS, open_session)


@asynccontextmanager
async def awaited(contact: FirstContact, problem: str) -> AsyncIterator["asyncio.Task[None]"]:
    """Wait for the contact, which has this *problem* when the body begins. At its end the wait is cancelled."""
    waiting = asyncio.create_task(contact.made())
    await until(lambda: contact.problem and problem in contact.problem)
    assert not waiting.done()
    yield waiting
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_api_server_that_responds_gets_one_request_and_nothing_is_logged(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, contact: FirstContact
) -> None:
    server.others.append(VERSION)
    assert str(contact.problem) == "the API server has not responded yet"
    with caplog.at_level(logging.INFO):
        await contact.made()
    assert contact.problem is None
    assert [request.path for request in server.requests] == ["/version"]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (status(401, "Unauthorized", "no such token"), "no such token; check the service account's token"),
        (status(500, "InternalError", "etcd is gone"), "500 InternalError: etcd is gone; see the API server's log"),
        (status(503, "ServiceUnavailable"), "503 ServiceUnavailable"),
        (status(429, "TooManyRequests"), "it is overloaded"),
        (Reply(b"<html>", 404), "404"),
    ],
)
async def test_an_error_response_is_waited_out_and_named_in_one_log_line(
    server: ScriptedServer, reply: Reply, message: str, contact: FirstContact, caplog: pytest.LogCaptureFixture
) -> None:
    server.others += [reply] * 1000
    with caplog.at_level(logging.INFO):
        async with awaited(contact, message) as waiting:
            await until(lambda: len(server.requests) > 5)
            assert not waiting.done()
            server.others.clear()
            server.others += [VERSION] * 10
            await waiting
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


async def test_a_user_without_permission_for_the_version_has_made_contact(
    server: ScriptedServer, contact: FirstContact
) -> None:
    server.others.append(status(403, "Forbidden", "cannot get path /version"))
    await contact.made()
    assert (contact.problem, len(server.requests)) == (None, 1)


async def test_temporarily_unreadable_credentials_are_waited_for(
    server: ScriptedServer, open_session: OpenSession
) -> None:
    readable = asyncio.Event()

    async def authorization() -> str:
        if not readable.is_set():
            raise AccessError("the kubeconfig is being written: correct it")
        return "Bearer x"

    server.others.append(VERSION)
    contact = new_contact(ClusterAccess(URL, authorization=authorization), open_session)
    async with awaited(contact, "is being written") as waiting:
        readable.set()
        await waiting


async def test_a_slow_api_server_gets_the_time_that_it_needs(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, contact: FirstContact
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
    await contact.made()
    assert (contact.problem, len(server.requests)) == (None, 1)


def test_the_intervals_grow_are_randomised_and_leave_time_for_the_lists(open_session: OpenSession) -> None:
    for random, expected in ((0.0, [0.5, 1.0, 1.5, 1.5]), (1.0, [1.0, 2.0, 3.0, 3.0])):
        contact = new_contact(ACCESS, open_session, random=lambda value=random: value)
        assert [contact._intervals.next() for _ in range(4)] == expected


class Crashed:
    """An API server without power: connections to it stay, and deliver nothing."""

    def __init__(self, server: ScriptedServer) -> None:
        self.open = self.requests = 0
        server.network.serve(URL, lambda: _Silent(self))


class _Silent(asyncio.Protocol):
    def __init__(self, server: Crashed) -> None:
        self.server = server

    @override
    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        self.server.open += 1

    @override
    def data_received(self, data: bytes) -> None:
        self.server.requests += 1

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open -= 1


def serve_lists(server: ScriptedServer, after_seconds: float = 0.0) -> list[str]:
    """Let new connections reach an API server that answers lists after these seconds. Return the requested targets."""
    targets: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                targets.append(head.split(b" ")[1].decode())
                if targets[-1] == "/version":
                    writer.write(VERSION.encoded())
                elif "watch" not in targets[-1]:
                    await asyncio.sleep(after_seconds)
                    writer.write(page(version="7").encoded())
        writer.close()

    server.network.serve(URL, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve))
    return targets


@asynccontextmanager
async def first_list(contact: FirstContact, open_session: OpenSession) -> AsyncIterator["asyncio.Task[None]"]:
    """Wait for the first list of an informer, which has arrived at the end."""
    async with Client(ACCESS, user_agent="test/1", open_session=open_session) as client:
        informer = Informer(client, PODS, Recorder[Pod]())
        running = asyncio.create_task(informer.run())
        waiting = asyncio.create_task(contact.first_lists(client, [informer]))
        yield waiting
        await waiting
        assert (contact.problem, informer.problem) == (None, None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_at_most_two_requests_are_in_progress(server: ScriptedServer, contact: FirstContact) -> None:
    crashed = Crashed(server)
    waiting = asyncio.create_task(contact.made())
    opened: list[int] = []

    def requested() -> int:
        opened.append(crashed.open)
        return crashed.requests

    await until(requested, "ten requests", holds=(10).__le__)
    assert max(opened) <= 3, "two, and one that has been cut and whose end the server is about to see"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: crashed.open == 0)


async def test_a_first_list_whose_connection_was_lost_is_sent_again_on_a_new_one(
    server: ScriptedServer, contact: FirstContact, open_session: OpenSession
) -> None:
    """The list hangs on a half-open connection, which its own limit of 30 s would end much later."""
    crashed = Crashed(server)
    begun = now()
    async with first_list(contact, open_session) as waiting:
        await until(lambda: contact.problem is not None and crashed.requests > 2)
        assert not waiting.done()
        serve_lists(server)
    assert now() - begun < 15


async def test_a_slow_first_list_is_not_interrupted(
    server: ScriptedServer, contact: FirstContact, open_session: OpenSession
) -> None:
    targets = serve_lists(server, after_seconds=4.0)
    async with first_list(contact, open_session):
        pass
    assert sum(target.startswith("/api/v1/pods?limit") for target in targets) == 1
    assert targets.count("/version") > 1


async def test_failing_first_lists_and_the_wait_share_one_log_line_a_minute(
    server: ScriptedServer,
    client: Client,
    recorder: Recorder[Pod],
    caplog: pytest.LogCaptureFixture,
    open_session: OpenSession,
) -> None:
    limit = LogLimit()
    server.others += [status(403, "Forbidden", "no right")] * 1000
    informers = [Informer(client, PODS, recorder, log_limit=limit, random=lambda: 0.001) for _ in range(3)]
    contact = new_contact(ACCESS, open_session, log_limit=limit)
    with caplog.at_level(logging.INFO):
        running = [asyncio.create_task(informer.run()) for informer in informers]
        waiting = asyncio.create_task(contact.first_lists(client, informers))
        await until(lambda: len(server.requests) > 30)
        assert not waiting.done()
    (line,) = caplog.records
    assert line.getMessage() == "not allowed to list or watch; grant this permission in the ClusterRole"
    assert informers[0].problem == f"{line.getMessage()} (403 Forbidden: no right)"
    for task in (waiting, *running):
        task.cancel()
    await asyncio.gather(waiting, *running, return_exceptions=True)
