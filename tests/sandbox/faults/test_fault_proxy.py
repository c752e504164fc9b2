"""Each fault as a client meets it, on new and on established connections. Excluded: HTTP (test_answers_in_place)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from podidentity_sandbox.faults import FaultProxy, Mode, Pace
from podidentity_sandbox.serving import free_ports

DEADLINE = 60.0
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

    async def says(self, text: bytes) -> bytes:
        self.writer.write(text)
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readexactly(len(text))

    async def hears_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET):
                await self.reader.read(1)

    async def is_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await self.reader.read(1)

    async def close(self) -> None:
        self.writer.close()


async def connect(proxy: FaultProxy) -> Client:
    return Client(*await asyncio.open_connection(proxy.host, proxy.port))


async def test_bytes_are_forwarded_and_counted(proxy: FaultProxy) -> None:
    client = await connect(proxy)
    assert await client.says(b"hello") == b"hello"
    assert (proxy.counts.accepted, proxy.counts.bytes_to_server, proxy.counts.bytes_to_client) == (1, 5, 5)
    assert proxy.open_connections == 1
    await client.close()


async def test_the_end_of_a_stream_is_forwarded(proxy: FaultProxy) -> None:
    client = await connect(proxy)
    client.writer.write(b"last")
    client.writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        assert await client.reader.read() == b"last"
    await client.close()


async def test_while_hanging_new_connections_get_nothing_and_old_ones_continue(proxy: FaultProxy) -> None:
    old = await connect(proxy)
    await old.says(b"x")
    await proxy.set_mode(Mode.HANG)
    new = await connect(proxy)
    new.writer.write(b"question")
    await new.hears_nothing()
    assert await old.says(b"still here") == b"still here"
    await proxy.set_mode(Mode.PASS)
    async with asyncio.timeout(DEADLINE):
        assert await new.reader.readexactly(8) == b"question"
    await old.close()
    await new.close()


async def test_while_silent_old_connections_stay_open_and_deliver_nothing(proxy: FaultProxy) -> None:
    client = await connect(proxy)
    await client.says(b"x")
    await proxy.set_mode(Mode.SILENT)
    client.writer.write(b"held")
    await client.hears_nothing()
    assert not client.reader.at_eof()
    await proxy.set_mode(Mode.PASS)
    async with asyncio.timeout(DEADLINE):
        assert await client.reader.readexactly(4) == b"held"
    await client.close()


async def test_while_silent_even_the_end_of_the_server_is_not_forwarded(proxy: FaultProxy, echo: int) -> None:
    client = await connect(proxy)
    await client.says(b"x")
    await proxy.set_mode(Mode.SILENT)
    client.writer.write_eof()
    await client.hears_nothing()
    await client.close()


async def test_while_refusing_no_client_can_connect_and_the_port_works_again_afterwards(proxy: FaultProxy) -> None:
    old = await connect(proxy)
    await old.says(b"x")
    port = proxy.port
    await proxy.set_mode(Mode.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    assert await old.says(b"still here") == b"still here"
    await proxy.set_mode(Mode.PASS)
    assert proxy.port == port
    new = await connect(proxy)
    assert await new.says(b"again") == b"again"
    await old.close()
    await new.close()


async def test_a_reset_ends_old_connections_and_new_ones(proxy: FaultProxy) -> None:
    old = await connect(proxy)
    await old.says(b"x")
    await proxy.set_mode(Mode.RESET)
    await old.is_reset()
    new = await connect(proxy)
    new.writer.write(b"question")
    await new.is_reset()
    await old.close()
    await new.close()


async def test_connections_can_be_reset_once_and_work_again(proxy: FaultProxy) -> None:
    old = await connect(proxy)
    await old.says(b"x")
    await proxy.reset_connections()
    await old.is_reset()
    new = await connect(proxy)
    assert await new.says(b"again") == b"again"
    await old.close()
    await new.close()


async def test_a_slow_proxy_limits_the_rate(proxy: FaultProxy) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    proxy.pace = Pace(bytes_per_second=100, latency_seconds=1.0, sleep=sleep)
    client = await connect(proxy)
    assert await client.says(b"0123456789") == b"0123456789"
    # Ten bytes each way, in pieces of five.
    assert sum(waited) == pytest.approx(4 * 1.0 + 20 / 100)
    await client.close()


async def test_if_the_server_is_down_the_clients_connection_ends() -> None:
    proxy = FaultProxy("127.0.0.1", free_ports(1)[0])
    await proxy.start()
    client = await connect(proxy)
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionResetError):
            assert await client.reader.read() == b""
    await client.close()
    await proxy.stop()


async def test_stopping_ends_hanging_connections(proxy: FaultProxy) -> None:
    client = await connect(proxy)
    await client.says(b"x")
    await proxy.set_mode(Mode.SILENT)
    async with asyncio.timeout(DEADLINE):
        await proxy.stop()
        with contextlib.suppress(ConnectionResetError):
            assert await client.reader.read() == b""
    await client.close()


async def test_a_given_socket_is_served_too(echo: int) -> None:
    elsewhere = socket.create_server(("127.0.0.1", 0))
    port = elsewhere.getsockname()[1]
    proxy = FaultProxy("127.0.0.1", echo)
    await proxy.start(extra_sockets=[elsewhere])
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    assert await client.says(b"hello") == b"hello"
    await client.close()
    await proxy.stop()


async def test_a_connection_whose_task_ends_before_its_first_step_is_closed(echo: int) -> None:
    class Cancelling(FaultProxy):
        @override
        def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            super()._accepted(reader, writer)
            for task in self._links:
                task.cancel()

    proxy = Cancelling("127.0.0.1", echo)
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
    assert proxy.counts.accepted == 1
    assert proxy.open_connections == 0
    writer.close()
    await proxy.stop()


async def test_a_connection_that_is_reported_after_the_end_is_closed(proxy: FaultProxy) -> None:
    await proxy.stop()
    ours, theirs = socket.socketpair()
    with ours:
        reader, writer = await asyncio.open_connection(sock=theirs)
        proxy._accepted(reader, writer)
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.to_thread(ours.recv, 1) == b""
    assert proxy.open_connections == 0
