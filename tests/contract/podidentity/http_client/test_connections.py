"""Connections are reused, limited in number, and closed when their response is not complete."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from podidentity.http_client.errors import (
    ClientConnectorError,
    ClientOSError,
    HttpClientError,
    ServerDisconnectedError,
)
from podidentity.http_client.session import HttpSession
from podidentity_sandbox.serving import free_ports
from tests.support.raw_server import RawServer, Reply, ok
from tests.support.virtual_time import settle
from tests.support.waiting import until


async def body(session: HttpSession, server: RawServer, method: str = "GET") -> bytes:
    response = await session.request(method, server.url, headers={})
    try:
        return await response.readany()
    finally:
        response.close()


@pytest.mark.parametrize(("field", "connections"), [("A: b", 1), ("Connection: close", 3)])
async def test_requests_share_a_connection_unless_the_server_wants_it_closed(
    server: RawServer, session: HttpSession, field: str, connections: int
) -> None:
    server.replies += [ok(b"hello", field)] * 3
    assert [await body(session, server) for _ in range(3)] == [b"hello"] * 3
    assert server.connections == connections


async def test_without_reuse_each_request_has_its_connection(server: RawServer) -> None:
    server.replies += [ok(), ok()]
    async with HttpSession(connections=4, headers={}, reuse=False) as session:
        assert [await body(session, server) for _ in range(2)] == [b"hello"] * 2
    await until(lambda: (server.connections, server.ended) == (2, 2))


async def test_a_connection_that_the_server_has_closed_is_not_used(server: RawServer, session: HttpSession) -> None:
    server.replies += [Reply(*ok().pieces, close=True), ok()]
    assert await body(session, server) == b"hello"
    await until(lambda: not session._connections)
    assert await body(session, server, "POST") == b"hello"


@pytest.mark.parametrize("ending", [Reply(close=True), Reply(reset=True)], ids=["close", "reset"])
async def test_a_read_is_sent_again_if_the_kept_connection_ends(
    server: RawServer, session: HttpSession, ending: Reply
) -> None:
    server.replies += [ok(), ending, ok(b"again")]
    assert await body(session, server) == b"hello"
    assert await body(session, server) == b"again"
    assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_write_is_not_sent_again(server: RawServer, session: HttpSession, method: str) -> None:
    server.replies += [ok(), Reply(close=True), ok()]
    assert await body(session, server) == b"hello"
    with pytest.raises(ServerDisconnectedError, match=r"^Server disconnected$"):
        await body(session, server, method)
    assert len(server.requests) == 2


async def test_a_request_on_a_new_connection_is_sent_once(server: RawServer, session: HttpSession) -> None:
    server.replies += [Reply(close=True), ok()]
    with pytest.raises(ServerDisconnectedError):
        await body(session, server)
    assert len(server.requests) == 1


async def test_a_reset_has_its_cause(server: RawServer, session: HttpSession) -> None:
    server.replies.append(Reply(reset=True))
    with pytest.raises(ClientOSError, match="Connection reset by peer"):
        await body(session, server)


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "reply",
    [Reply(ok().pieces[0] + EVIL), Reply(*ok().pieces, TIMEOUT)],
    ids=["with a response", "on an idle connection"],
)
async def test_bytes_that_no_request_asked_for_close_the_connection(
    server: RawServer, session: HttpSession, reply: Reply
) -> None:
    server.replies += [reply, ok()]
    assert await body(session, server) == b"hello"
    await until(lambda: server.ended == 1)
    assert await body(session, server) == b"hello"
    assert server.connections == 2


async def test_a_response_that_is_closed_early_closes_its_connection(server: RawServer, session: HttpSession) -> None:
    server.replies += [Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", hang=True), ok()]
    response = await session.request("GET", server.url, headers={})
    response.close()
    response.close()
    with pytest.raises(HttpClientError, match=r"^Connection closed$"):
        await response.readany()
    await until(lambda: server.ended == 1)
    assert await body(session, server) == b"hello"


async def test_a_cancelled_request_closes_its_connection_and_frees_its_place(server: RawServer) -> None:
    async with HttpSession(connections=1, headers={}) as session:
        for number in range(3):
            request = asyncio.create_task(body(session, server))
            await until(lambda: len(server.requests), holds=(number + 1).__eq__)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        await until(lambda: (server.connections, server.ended) == (3, 3))
        server.replies.append(ok())
        assert await body(session, server) == b"hello"


async def test_a_cancelled_read_leaves_the_response_readable(server: RawServer, session: HttpSession) -> None:
    cancelled = asyncio.Event()

    async def answer() -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        await cancelled.wait()
        yield b"hello"

    server.replies.append(answer())
    response = await session.request("GET", server.url, headers={})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await response.readany()
    cancelled.set()
    assert await response.readany() == b"hello"


async def test_requests_over_the_limit_wait_for_a_response(server: RawServer) -> None:
    server.replies += [ok()] * 6
    async with HttpSession(connections=2, headers={}) as session:
        results = await asyncio.gather(*(body(session, server) for _ in range(6)))
    assert (results, server.connections) == ([b"hello"] * 6, 2)


async def test_failures_free_their_place(server: RawServer) -> None:
    async with HttpSession(connections=1, headers={}) as session:
        for reply in (Reply(close=True), Reply(b"nonsense\r\n"), Reply(reset=True)):
            server.replies.append(reply)
            with pytest.raises(HttpClientError):
                await body(session, server)
        server.replies.append(ok())
        assert await body(session, server) == b"hello"


async def test_a_failed_connection_has_its_cause(session: HttpSession) -> None:
    (port,) = free_ports(1)
    for url, cause in ((f"http://127.0.0.1:{port}", ConnectionRefusedError), ("http://name.invalid", socket.gaierror)):
        with pytest.raises(ClientConnectorError) as raised:
            await session.request("GET", url, headers={})
        assert isinstance(raised.value.os_error, cause)


async def test_concurrent_requests_share_a_lookup(
    server: RawServer, session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, lookups, resolution = asyncio.get_running_loop(), 0, asyncio.Event()

    async def getaddrinfo(_host: str, port: int, **_options: object) -> list[object]:
        nonlocal lookups
        lookups += 1
        await resolution.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    class Names:
        def __getattr__(self, name: str) -> object:
            return getaddrinfo if name == "getaddrinfo" else getattr(loop, name)

    monkeypatch.setattr(asyncio, "get_running_loop", Names)
    server.replies += [ok(), ok()]
    url = f"http://api.test:{server.port}"
    cancelled = asyncio.ensure_future(session.request("GET", url, headers={}))
    others = [asyncio.ensure_future(session.request("GET", url, headers={})) for _ in range(2)]
    await settle()
    cancelled.cancel()
    resolution.set()
    assert [(await request).status for request in others] == [200, 200]
    assert lookups == 1


async def test_another_address_is_tried(session: HttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer() as server:
        server.replies.append(ok())
        addresses = [("127.0.0.1", 9), ("127.0.0.1", server.port)]  # none listens at the discard port

        async def resolved(_self: HttpSession, _origin: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

        monkeypatch.setattr(HttpSession, "_resolved", resolved)
        assert (await session.request("GET", "http://api.test", headers={})).status == 200


async def test_closing_the_session_ends_open_responses(server: RawServer, session: HttpSession) -> None:
    server.replies.append(Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", hang=True))
    response = await session.request("GET", server.url, headers={})
    assert await response.readany() == b"he"
    waiting = asyncio.ensure_future(session.request("GET", server.url, headers={}))
    await until(lambda: len(server.requests) == 2)
    await session.close()
    with pytest.raises(HttpClientError):
        await response.readany()
    with pytest.raises(ServerDisconnectedError):
        await waiting
    with pytest.raises(HttpClientError, match="closed"):
        await session.request("GET", server.url, headers={})
    await until(lambda: server.ended == 2)
