"""A server cannot make the client keep more than a bounded number of bytes, or wait longer than its limits."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from itertools import repeat

import pytest

from podidentity.http_client.connection import HEAD_MAX, READ_AHEAD, Response
from podidentity.http_client.errors import (
    ClientPayloadError,
    ClientResponseError,
    ConnectionTimeoutError,
)
from podidentity.http_client.session import HttpSession
from tests.support.raw_server import RawServer, Reply, body_of, ok
from tests.support.waiting import until

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MANY = 10_000

LONG = 2000
"""Pieces of a head or a body that has no end for the client: far more than it may keep."""


async def repeated(begin: bytes, piece: bytes, times: int) -> AsyncIterator[bytes]:
    yield begin
    for part in repeat(piece, times):
        yield part
        await asyncio.sleep(0)


def is_paused(response: Response) -> bool:
    """Return whether the client does not read the rest of *response* for now."""
    transport = response._connection._transport
    return transport is not None and not transport.is_reading()


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"Name: value\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\n", b"N" * 1000),
        (b"HTTP/1.1 200 OK\r\nName: ", b"v" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
    ],
    ids=["reason", "fields", "name", "value", "informational"],
)
async def test_a_head_without_end_is_an_error(
    server: RawServer, session: HttpSession, begin: bytes, piece: bytes
) -> None:
    server.replies.append(repeated(begin, piece, LONG))
    with pytest.raises(ClientResponseError, match=str(HEAD_MAX)):
        await session.request("GET", server.url, headers={})


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"0\r\n", b"Name: value\r\n" * 100), (b"0\r\nName: ", b"v" * 1000), (b"5;", b"e" * 1000)],
    ids=["trailers", "trailer", "extension"],
)
async def test_text_around_a_body_without_end_is_an_error(
    server: RawServer, session: HttpSession, begin: bytes, piece: bytes
) -> None:
    server.replies.append(repeated(CHUNKED + b"2\r\nhe\r\n" + begin, piece, LONG))
    response = await session.request("GET", server.url, headers={})
    with pytest.raises(ClientPayloadError, match=str(HEAD_MAX)):
        await body_of(response)


async def test_many_small_chunks_are_a_body(server: RawServer, session: HttpSession) -> None:
    server.replies.append(Reply(CHUNKED + b"1\r\nx\r\n" * MANY + b"0\r\n\r\n"))
    response = await session.request("GET", server.url, headers={})
    assert await body_of(response) == b"x" * MANY


async def test_a_body_that_is_not_read_is_not_received(server: RawServer, session: HttpSession) -> None:
    sent = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        async for piece in repeated(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100_000, LONG):
            sent += len(piece)
            yield piece

    server.replies.append(counted())
    response = await session.request("GET", server.url, headers={})
    await until(lambda: is_paused(response))
    assert len(await response.readany()) <= 2 * READ_AHEAD + 300_000  # one read of the loop in addition
    before = sent
    while sent == before:  # how much the kernel has buffered differs
        assert await response.readany()
    response.close()


async def test_the_next_response_is_received_whether_or_not_the_one_before_was_read(
    server: RawServer, session: HttpSession
) -> None:
    body = b"x" * 2_000_000
    server.replies += [ok(body), ok(body)]
    first = await session.request("GET", server.url, headers={})
    await until(lambda: is_paused(first))
    read = await body_of(first)
    again = await body_of(await session.request("GET", server.url, headers={}))
    assert (read == body, again == body, server.connections) == (True, True, 1)


async def test_a_connection_is_limited_in_time(session: HttpSession) -> None:
    """A listening socket with a full queue does not answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        try:
            with pytest.raises(ConnectionTimeoutError, match=r"^Connection timeout to host 127\.0\.0\.1:"):
                await session.request("GET", f"http://127.0.0.1:{address[1]}", headers={}, connect_seconds=0.1)
        finally:
            for sock in waiting:
                sock.close()


async def test_a_tls_handshake_is_limited_in_time(server: RawServer) -> None:
    url = server.url.replace("http:", "https:")
    async with HttpSession(connections=1, headers={}, tls=ssl.create_default_context()) as session:
        with pytest.raises(ConnectionTimeoutError):
            await session.request("GET", url, headers={}, connect_seconds=0.1)
