"""A token server on loopback, and clients of it. Fakes replace the token service and IMDS, if a test gives no proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry

from _native.index import Index
from _native.lane import Limits
from nmi.identity.request import TokenRequest
from nmi.refusal import Refusal
from nmi.server.metrics import ServerMetrics
from nmi.server.passthrough import Forwarder
from nmi.server.policy import ServerPolicy
from nmi.server.server import Server
from nmi.tokens.source import Issued
from tests.support.nmi.server.fakes import (
    FakeProxy,
    FakeTokenService,
    Reply,
    ServerUnderTest,
    grant,
    pod_entry,
    replies,
)
from tests.support.nmi.server.limits import limits_with

LOCAL = "127.0.0.1"


class Running:
    """A server on a free port. The test starts it, or takes it from serving()."""

    def __init__(
        self,
        policy: ServerPolicy | None = None,
        proxy: Forwarder[str] | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.index = Index()
        self.entry = pod_entry()
        self.index.put(LOCAL, self.entry.record)
        self.token_service = FakeTokenService(lambda _: grant(self.entry.record))
        self.proxy = FakeProxy()
        self.registry = CollectorRegistry()
        self.measures = ServerMetrics(self.registry)
        self.server = Server(
            limits=limits or limits_with(),
            policy=policy or ServerPolicy(),
            index=self.index,
            token_service=self.token_service,
            proxy=proxy or self.proxy,
            measures=self.measures,
        )
        self.listener = socket.create_server((LOCAL, 0), backlog=64)
        self.listener.setblocking(False)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()
        return host, port

    def count(self, name: str) -> int:
        """Return one of the lane's counters."""
        return self.server.counters()[name]

    @property
    def fast(self) -> int:
        """The number of responses of the fast lane."""
        return self.count("fast_answers")

    def labels(self) -> list[tuple[str, ...]]:
        """Return the labels of all request metrics."""
        return [series.labels for series in self.measures.histogram.all_series()]

    def hold(self) -> asyncio.Event:
        """Let the token service answer only after the returned event."""
        released = asyncio.Event()

        async def respond(_: TokenRequest) -> Issued | Refusal:
            await released.wait()
            return grant(self.entry.record)

        self.token_service.respond = respond
        return released

    @asynccontextmanager
    async def client(self, *, window: int = 0) -> AsyncIterator["Client"]:
        """Return a connection; with *window*, its socket accepts only about this number of unread bytes."""
        sock = socket.socket()
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=window or 2**20)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


class Client:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        """Return the next head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def body(self, length: int) -> bytes:
        """Return the next *length* bytes."""
        return await self.reader.readexactly(length)

    async def reply(self) -> Reply:
        head = await self.head()
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        (reply,) = replies(head + await self.body(length))
        return reply

    async def ask(self, data: bytes) -> Reply:
        self.send(data)
        return await self.reply()

    async def statuses(self, data: bytes, count: int = 2) -> list[int]:
        """Send *data* several times, one after the other. Return the statuses of the responses."""
        return [(await self.ask(data)).status for _ in range(count)]

    async def rest(self) -> bytes:
        """Return all bytes until the connection ends."""
        return await self.reader.read()


@asynccontextmanager
async def serving(policy: ServerPolicy | None = None, proxy: Forwarder[str] | None = None) -> AsyncIterator[Running]:
    """Run a server."""
    running = Running(policy, proxy)
    await running.server.start(running.listener)
    try:
        yield running
    finally:
        await running.server.aclose()
        running.listener.close()


@pytest.fixture
def server() -> ServerUnderTest:
    """The parts of a server with the default policy."""
    return ServerUnderTest()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A server with the default policy."""
    async with serving() as started:
        yield started


@pytest.fixture
async def client(running: Running) -> AsyncIterator[Client]:
    """A connection to *running* from the address of its pod."""
    async with running.client() as connected:
        yield connected
