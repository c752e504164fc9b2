"""A relay's connections, and how they end.

The tests of clients behind the proxy show its faults: tests/contract/podidentity/kube/test_first_contact.py for new
connections, tests/contract/kube/test_informer_against_servers.py for established ones.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from typing_extensions import override

from podidentity_sandbox.serving import free_ports
from tests.support.fault_proxy import FaultProxy, Mode


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def proxy(echo: int) -> AsyncIterator[FaultProxy]:
    made = FaultProxy("127.0.0.1", echo)
    await made.start()
    yield made
    await made.stop()
    assert made.open_connections == 0


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def exchange(self, text: bytes) -> bytes:
        """Send the text, and return as many bytes as it has."""
        self.writer.write(text)
        return await self.reader.readexactly(len(text))

    async def is_ended(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            assert await self.reader.read() == b""


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to a proxy, or to another port. The connections are closed after the test."""
    clients: list[Client] = []

    async def connect_to(proxy: FaultProxy, port: int = 0) -> Client:
        clients.append(Client(*await asyncio.open_connection(proxy.host, port or proxy.port)))
        return clients[-1]

    yield connect_to
    for client in clients:
        client.writer.close()


@pytest.fixture
async def old(proxy: FaultProxy, connect: Connect) -> Client:
    """An established connection."""
    client = await connect(proxy)
    await client.exchange(b"x")
    return client


async def test_bytes_and_the_end_of_a_stream_are_forwarded(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)
    assert await client.exchange(b"hello") == b"hello"
    assert proxy.open_connections == 1
    client.writer.write(b"last")
    client.writer.write_eof()
    assert await client.reader.read() == b"last"


async def test_if_the_server_is_down_the_clients_connection_ends(connect: Connect) -> None:
    proxy = FaultProxy("127.0.0.1", free_ports(1)[0])
    await proxy.start()
    await (await connect(proxy)).is_ended()
    await proxy.stop()


async def test_stopping_ends_hanging_connections(proxy: FaultProxy, old: Client) -> None:
    await proxy.set_mode(Mode.SILENT)
    await proxy.stop()
    await old.is_ended()


async def test_a_given_socket_is_served_too(echo: int, connect: Connect) -> None:
    elsewhere = socket.create_server(("127.0.0.1", 0))
    proxy = FaultProxy("127.0.0.1", echo)
    port = elsewhere.getsockname()[1]
    await proxy.start(extra_sockets=[elsewhere])
    assert await (await connect(proxy, port)).exchange(b"hello") == b"hello"
    await proxy.stop()


async def test_a_connection_whose_task_ends_before_its_first_step_is_closed(echo: int, connect: Connect) -> None:
    class Cancelling(FaultProxy):
        @override
        def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            super()._accepted(reader, writer)
            for task in self._links:
                task.cancel()

    proxy = Cancelling("127.0.0.1", echo)
    await proxy.start()
    await (await connect(proxy)).is_ended()
    assert proxy.open_connections == 0
    await proxy.stop()


async def test_a_connection_that_is_reported_after_the_end_is_closed(proxy: FaultProxy) -> None:
    await proxy.stop()
    ours, theirs = socket.socketpair()
    with ours:
        reader, writer = await asyncio.open_connection(sock=theirs)
        proxy._accepted(reader, writer)
        assert await asyncio.to_thread(ours.recv, 1) == b""
    assert proxy.open_connections == 0
