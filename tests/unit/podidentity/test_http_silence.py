"""The client's time limits for a silent server and an idle connection, in virtual time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from podidentity.http_client.errors import SocketTimeoutError
from podidentity.http_client.session import HttpSession
from tests.support.memory_network import MemoryNetwork
from tests.support.raw_server import RawServer, Reply, body_of, ok
from tests.support.virtual_time import now
from tests.support.waiting import until

URL = "http://server"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    raw = RawServer()
    yield raw
    await raw.end()


@pytest.fixture
async def session(server: RawServer) -> AsyncIterator[HttpSession]:
    network = MemoryNetwork()
    network.serve(URL, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), server.accept))
    async with network.http_session(connections=4, headers={}, idle_seconds=15.0) as opened:
        yield opened


async def test_silence_before_the_head_ends_the_request(session: HttpSession) -> None:
    begun = now()
    with pytest.raises(SocketTimeoutError):
        await session.request("GET", URL, headers={}, silence_seconds=5.0)
    assert now() - begun == 5.0


async def test_silence_in_the_body_ends_the_response(server: RawServer, session: HttpSession) -> None:
    server.replies.append(Reply(CHUNKED, b"2\r\nhe\r\n", hang=True))
    response = await session.request("GET", URL, headers={}, silence_seconds=5.0)
    assert await response.readany() == b"he"
    with pytest.raises(SocketTimeoutError):
        await response.readany()
    response.close()


async def test_a_slow_body_is_no_silence(server: RawServer, session: HttpSession) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield CHUNKED
        for _ in range(20):
            await asyncio.sleep(4.9)
            yield b"1\r\nx\r\n"
        yield b"0\r\n\r\n"

    server.replies.append(slowly())
    response = await session.request("GET", URL, headers={}, silence_seconds=5.0)
    assert await body_of(response) == b"x" * 20


async def test_an_idle_connection_is_closed(server: RawServer, session: HttpSession) -> None:
    server.replies += [ok(), ok()]
    for pause in (14.9, 15.0):
        response = await session.request("GET", URL, headers={})
        assert await body_of(response) == b"hello"
        assert (server.connections, server.ended) == (1, 0)
        await asyncio.sleep(pause)
    await until(lambda: server.ended == 1)
