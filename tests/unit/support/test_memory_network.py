"""Connections in memory behave as sockets do in what hardly any other test shows: back pressure and a closed end."""

import asyncio

import pytest

from tests.support.memory_network import HIGH_WATER, MemoryNetwork

ORIGIN = "http://server"


class Server(asyncio.Protocol):
    """A server that counts what it receives."""

    transport: asyncio.Transport
    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[explicit-override]
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override]
        self.received += len(data)


def connected(server: Server) -> asyncio.StreamWriter:
    """Return the client's end of a new connection."""
    network, reader = MemoryNetwork(), asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    network.serve(ORIGIN, lambda: server)
    network.connect(ORIGIN, protocol)
    transport = protocol._transport  # type: ignore[attr-defined]
    return asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def test_a_writer_waits_for_a_reader_that_has_paused() -> None:
    server = Server()
    writer = connected(server)
    server.transport.pause_reading()
    writer.write(b"x" * 2 * HIGH_WATER)
    drained = asyncio.create_task(writer.drain())
    await asyncio.sleep(1)
    assert not drained.done()
    assert server.received == 0
    server.transport.resume_reading()
    await drained
    assert server.received == 2 * HIGH_WATER
    writer.close()


async def test_data_for_an_end_that_has_closed_reset_the_connection() -> None:
    server = Server()
    writer = connected(server)
    server.transport.close()
    writer.write(b"x" * 2 * HIGH_WATER)
    with pytest.raises(ConnectionResetError):
        await writer.drain()
    assert writer.is_closing()
