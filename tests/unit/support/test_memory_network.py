"""Connections in memory behave as sockets do: order, back pressure, the end and a reset of a connection."""

import asyncio

import pytest

from podidentity.http_client.errors import ClientConnectorError, ClientOSError
from tests.support.memory_network import MemoryNetwork

ORIGIN = "http://server"


class Echo(asyncio.Protocol):
    """A server that sends back what it receives, and notes what happens to its connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[explicit-override]
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override]
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # type: ignore[explicit-override]
        self.lost.append(exc)


def connected(network: MemoryNetwork) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the client's end of a new connection."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    network.connect(ORIGIN, protocol)
    transport = protocol._transport  # type: ignore[attr-defined]
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def test_data_arrive_in_their_order_and_before_the_end() -> None:
    network, server = MemoryNetwork(), Echo()
    network.serve(ORIGIN, lambda: server)
    reader, writer = connected(network)
    writer.write(b"one ")
    writer.write(b"two")
    assert await reader.readexactly(7) == b"one two"
    writer.write(b"last")
    writer.close()
    await asyncio.sleep(1)
    assert server.lost == [None]


async def test_the_server_ends_a_connection_after_what_it_wrote() -> None:
    network, server = MemoryNetwork(), Echo()
    network.serve(ORIGIN, lambda: server)
    reader, writer = connected(network)
    assert server.transport is not None
    server.transport.write(b"answer")
    server.transport.close()
    server.transport.write(b"too late")
    assert await reader.read() == b"answer"
    writer.close()


async def test_a_writer_waits_for_a_reader_that_has_paused() -> None:
    network, server = MemoryNetwork(), Echo()
    network.serve(ORIGIN, lambda: server)
    _, writer = connected(network)
    assert server.transport is not None
    server.transport.pause_reading()
    writer.write(b"x" * 100_000)
    drained = asyncio.create_task(writer.drain())
    await asyncio.sleep(1)
    assert not drained.done()
    server.transport.resume_reading()
    await drained
    writer.close()


async def test_data_for_an_end_that_has_closed_reset_the_connection() -> None:
    network, server = MemoryNetwork(), Echo()
    network.serve(ORIGIN, lambda: server)
    _, writer = connected(network)
    assert server.transport is not None
    server.transport.close()
    writer.write(b"x" * 100_000)
    with pytest.raises(ConnectionResetError):
        await writer.drain()
    assert writer.is_closing()


async def test_a_cut_resets_connections_and_refuses_further_ones_until_it_is_served_again() -> None:
    network = MemoryNetwork()
    network.serve(ORIGIN, asyncio.Protocol)
    async with network.http_session(connections=1, headers={}) as session:
        request = asyncio.create_task(session.request("GET", f"{ORIGIN}/", headers={}))
        await asyncio.sleep(1)
        network.cut(ORIGIN)
        with pytest.raises(ClientOSError):
            await request
        with pytest.raises(ClientConnectorError):
            await session.request("GET", f"{ORIGIN}/", headers={})
        network.serve(ORIGIN, asyncio.Protocol)
        network.connect(ORIGIN, asyncio.Protocol())
