"""A small HTTP server on loopback, and runs of the load generator against it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import generator
from benchmarks.load.generator import Group, Measured, Request, Run
from benchmarks.load.requests import plain

BODY = b"x" * 1700
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1700\r\n\r\n" + BODY
ANY_SOURCE = ("127.1.0.1", 1)
Answering = Callable[["Server", int, asyncio.StreamWriter], Any]


async def run_callbacks() -> None:
    """Let the loop run its pending callbacks."""
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass
class Server:
    """Server on loopback that responds in the order of requests, and records the requests and their clients."""

    answer: Answering
    port: int = 0
    peers: list[str] = field(default_factory=list)
    """One for each connection."""
    heads: list[bytes] = field(default_factory=list)
    """One for each request."""
    served: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    @asynccontextmanager
    async def listening(self, on: socket.socket | None = None) -> AsyncIterator[None]:
        where: dict[str, Any] = {"sock": on} if on else {"host": "127.0.0.1", "port": 0}
        listener = await asyncio.start_server(self.connected, backlog=1024, **where)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            await run_callbacks()  # a listener that is closed amid accepting leaves the connection open
            listener.close()
            for task in self.served:
                task.cancel()
            await asyncio.gather(*self.served, return_exceptions=True)
            for writer in self.served.values():
                writer.transport.abort()
            await run_callbacks()
            await listener.wait_closed()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        self.served[asyncio.create_task(self.serve(reader, writer), name="test server")] = writer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if (going_on := self.answer(self, len(self.heads), writer)) is not None:
                    await going_on
                if b"Connection: close\r\n" in head:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[Server]:
    """Run a server for the block; *answer* responds to each request."""
    server = Server(answer)
    async with server.listening():
        yield server


def always(answer: bytes) -> Answering:
    """Return a handler that responds to every request with *answer*."""
    return lambda _server, _number, writer: writer.write(answer)


async def run_load(server: Server | int, *groups: Group, seconds: float = 0.4, warm: float = 0.0) -> Run:
    """Run the load generator with *groups* against *server* (or its port) and return its result."""
    port = server if isinstance(server, int) else server.port
    return await asyncio.to_thread(generator.run, "127.0.0.1", port, groups, seconds, warm_seconds=warm)


def group(connections: int = 4, *requests: Request, **more: Any) -> Group:
    """Return a group of *connections*; `source` is its first address and the number of addresses."""
    first, sources = more.pop("source", ANY_SOURCE)
    return Group(more.pop("name", "one"), connections, first, sources, requests or (plain(),), **more)


async def measure(server: Server | int, *groups: Group, **more: Any) -> Measured:
    """Run the load generator with one group and return what it measured."""
    (measured,) = (await run_load(server, *groups, **more)).groups.values()
    return measured


def write_and_close(writer: asyncio.StreamWriter, response: bytes) -> None:
    """Write *response*, which may be incomplete, and close the connection."""
    writer.write(response)
    writer.close()
