"""Each fault as a client meets it, on new and on established connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from typing_extensions import override

from podidentity_sandbox.serving import free_ports
from tests.support.fault_proxy import FaultProxy, Mode

QUIET = 0.05


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

    async def receives_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET):
                await self.reader.read(1)

    async def is_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            await self.reader.read(1)

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


async def test_while_hanging_new_connections_get_nothing_and_old_ones_continue(
    proxy: FaultProxy, connect: Connect, old: Client
) -> None:
    await proxy.set_mode(Mode.HANG)
    new = await connect(proxy)
    new.writer.write(b"question")
    await new.receives_nothing()
    assert await old.exchange(b"still here") == b"still here"
    await proxy.set_mode(Mode.PASS)
    assert await new.reader.readexactly(8) == b"question"


async def test_while_silent_old_connections_stay_open_and_deliver_nothing(proxy: FaultProxy, old: Client) -> None:
    await proxy.set_mode(Mode.SILENT)
    old.writer.write(b"held")
    old.writer.write_eof()  # also the server's end is not forwarded
    await old.receives_nothing()
    assert not old.reader.at_eof()
    await proxy.set_mode(Mode.PASS)
    assert await old.reader.readexactly(4) == b"held"


async def test_while_refusing_no_client_can_connect_and_the_port_works_again_afterwards(
    proxy: FaultProxy, connect: Connect, old: Client
) -> None:
    port = proxy.port
    await proxy.set_mode(Mode.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    assert await old.exchange(b"still here") == b"still here"
    await proxy.set_mode(Mode.PASS)
    assert proxy.port == port
    assert await (await connect(proxy)).exchange(b"again") == b"again"


async def test_a_reset_ends_old_connections_and_new_ones(proxy: FaultProxy, connect: Connect, old: Client) -> None:
    await proxy.set_mode(Mode.RESET)
    await old.is_reset()
    new = await connect(proxy)
    new.writer.write(b"question")
    await new.is_reset()


async def test_connections_can_be_reset_once_and_work_again(proxy: FaultProxy, connect: Connect, old: Client) -> None:
    await proxy.reset_connections()
    await old.is_reset()
    assert await (await connect(proxy)).exchange(b"again") == b"again"


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
