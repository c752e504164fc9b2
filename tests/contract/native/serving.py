"""A lane on loopback, peers of it, and general lanes that record their calls."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from typing_extensions import override

from _native.connection import Connection
from _native.histogram import Histogram, Series
from _native.index import Index, PodRecord
from _native.lane import Lane, Limits
from _native.ready_responses import ReadyResponse, TokenResponse, Usage
from tests.support.nmi.server.limits import limits_with
from tests.support.waiting import LIMIT_SECONDS, until

KERNEL_MILLISECONDS = 60_000
RESOURCE = b"https://vault.azure.net"
REQUEST = (
    b"GET /metadata/identity/oauth2/token?resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\n"
    b"Host: 169.254.169.254\r\nMetadata: true\r\n\r\n"
)
LAST_REQUEST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
OTHER_REQUEST = b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"


class Recorder:
    """A general lane that answers each complete head with a 404 immediately, and closes the connection on request."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.received = b""
        self.pending = b""
        self.calls: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.note("data")
        self.received += data
        self.pending += data
        self.go_on()

    def go_on(self) -> None:
        while b"\r\n\r\n" in self.pending:
            head, _, self.pending = self.pending.partition(b"\r\n\r\n")
            self.connection.write(NOT_FOUND)
            if b"Connection: close" in head:
                self.connection.finish()
                return
        if not self.pending:
            self.connection.resume()

    def peer_gone(self) -> None:
        self.note("peer gone")

    def connection_lost(self) -> None:
        self.note("lost")

    def note(self, call: str) -> None:
        self.calls.append(call)

    async def until(self, call: str) -> None:
        """Wait for *call*."""
        await until(lambda: call in self.calls)


class Holding(Recorder):
    """A general lane that holds each request until the test answers it."""

    @override
    def go_on(self) -> None:
        self.connection.pause()

    def answer(self) -> None:
        self.pending = b""
        self.connection.write(NOT_FOUND)
        self.connection.resume()


class Finishing(Recorder):
    """Answers the first bytes and ends the connection."""

    @override
    def go_on(self) -> None:
        self.connection.write(NOT_FOUND)
        self.connection.finish()
        self.connection.write(b"never sent")
        self.connection.resume()


def reset(sock: socket.socket) -> None:
    """Close *sock* with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


@dataclass
class Peer:
    """One client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, data: bytes = REQUEST) -> bytes:
        self.send(data)
        return await self.answer()

    async def answer(self) -> bytes:
        """One whole response."""
        async with asyncio.timeout(LIMIT_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            return head + await self.reader.readexactly(length)

    async def ending(self) -> bytes:
        """Return the bytes until the lane closes or resets the connection."""
        received = bytearray()
        async with asyncio.timeout(LIMIT_SECONDS):
            try:
                while data := await self.reader.read(65536):
                    received += data
            except ConnectionResetError:
                pass
        return bytes(received)

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every socket transport has it

    def read_again(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def half_close(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Serving:
    """A started lane with its index, listener and general lanes."""

    lane: Lane
    index: Index
    record: PodRecord
    series: Series
    usage: Usage
    port: int
    listener: socket.socket
    generals: list[Recorder] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)

    async def connect(self, address: str = "127.0.0.1", *, receive_buffer: int = 0) -> Peer:
        """Connect from *address*, which represents a pod's address."""
        sock = self.connected(address, receive_buffer=receive_buffer)
        peer = Peer(*await asyncio.open_connection(sock=sock, limit=2**20))
        self.peers.append(peer)
        return peer

    def connected(self, address: str = "127.0.0.1", *, receive_buffer: int = 0) -> socket.socket:
        """Connect from *address* without running the loop, so that the lane has not accepted the connection yet."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((address, 0))
        sock.connect(("127.0.0.1", self.port))
        sock.setblocking(False)
        return sock

    async def held(self, address: str = "127.0.0.1") -> tuple[Peer, "Holding"]:
        """Connect from *address* and send a request, which the returned general lane holds."""
        peer, number = await self.connect(address), len(self.generals)
        peer.send(OTHER_REQUEST)
        await self.until(lambda: len(self.generals) > number)
        general = self.generals[number]
        assert isinstance(general, Holding)
        return peer, general

    def iterate(self) -> None:
        """Run the lane once, as the loop would."""
        self.lane._turn()  # type: ignore[attr-defined]  # private, and so not in the stub

    def count(self, name: str) -> int:
        return self.lane.counters()[name]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Run the loop until *holds* returns True. Raise AssertionError with the counters if it takes too long."""
        await until(holds, lambda: f"the lane's counters: {self.lane.counters()}")


def ready(
    token: bytes, series: Series, usage: Usage, *, lives_seconds: float = 3600, fresh_seconds: float = 3000
) -> ReadyResponse:
    now = time.monotonic_ns()
    return TokenResponse(
        before=b'{"access_token":"' + token + b'","expires_in":"',
        after=b'","token_type":"Bearer"}',
        expires_ns=now + int(lives_seconds * 1e9),
        fresh_until_ns=now + int(fresh_seconds * 1e9),
        series=series,
        usage=usage,
    )


def admit(record: PodRecord, response: ReadyResponse, resource: bytes = RESOURCE) -> bool:
    return record.admit(
        record.generation, resource=resource, selector_kind=0, selector_value=b"", xms_cc=b"", response=response
    )


@asynccontextmanager
async def serving(
    general: Callable[[Connection], Recorder] = Recorder,
    limits: Limits | None = None,
    *,
    token: bytes = b"secret",
    require_metadata: bool = True,
    addresses: Iterable[str] = ("127.0.0.1",),
    redirected_from: tuple[str, int] | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Serving]:
    """A lane whose index knows one pod, at each of *addresses*, with one ready response."""
    index, record, usage = Index(), PodRecord("pod"), Usage()
    series = Histogram([0.001, 1.0]).series(("200",))
    for address in addresses:
        index.put(address, record)
    admit(record, ready(token, series, usage))
    generals: list[Recorder] = []

    def make(connection: Connection) -> Recorder:
        generals.append(general(connection))
        return generals[-1]

    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen(1024)
        listener.setblocking(False)
        lane = Lane(
            index=index,
            general=make,
            limits=limits or limits_with(),
            require_metadata=require_metadata,
            redirected_from=redirected_from,
        )
        lane.start(asyncio.get_running_loop(), listener)
        # The kernel ends a connection without acknowledgements too. With the short deadlines of the tests it would be
        # first if the machine paused for a second.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KERNEL_MILLISECONDS)
        started = Serving(lane, index, record, series, usage, listener.getsockname()[1], listener, generals)
        try:
            yield started
        finally:
            lane.close()
            for peer in started.peers:
                await peer.close()
            assert lane.counters()["open"] == 0
            assert all(recorder.calls.count("lost") == 1 and recorder.calls[-1] == "lost" for recorder in generals)
