"""A proxy of bytes. It does not read them, so it works in front of TLS too."""

import asyncio
import enum
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from podidentity_sandbox.serving import restartable_listener

log = logging.getLogger(__name__)

CHUNK: Final = 65536
CONNECT_SECONDS: Final = 5.0
"""How long the server behind may take to accept; it is on the same machine."""
_LINGER_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, with a time of zero: closing then sends RST (socket(7))."""


class Mode(enum.Enum):
    """The treatment of bytes and connections."""

    PASS = "pass"  # noqa: S105 - no password
    """Everything passes, including bytes that were held back."""
    HANG = "hang"
    """New connections are accepted and not served. Established ones continue."""
    REFUSE = "refuse"
    """The port is closed: connecting fails. Established connections continue."""
    RESET = "reset"
    """Established connections are reset immediately, new ones as soon as they have sent data."""
    SILENT = "silent"
    """Half-open: established connections stay and deliver nothing in either direction; new ones hang."""


@dataclass
class Counts:
    """Counters since the creation of the proxy."""

    accepted: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0


@dataclass
class Pace:
    """The bandwidth (bytes per second in each direction, 0: no limit) and the delay of each piece."""

    bytes_per_second: float = 0.0
    latency_seconds: float = 0.0
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)

    @property
    def piece(self) -> int:
        """The bytes that are passed in one step: those of a twentieth of a second, for a steady slow stream."""
        return max(1, int(self.bytes_per_second / 20)) if self.bytes_per_second else CHUNK

    async def wait(self, size: int) -> None:
        """Wait for as long as *size* bytes take."""
        seconds = self.latency_seconds + (size / self.bytes_per_second if self.bytes_per_second else 0.0)
        if seconds > 0:
            await self.sleep(seconds)


@dataclass(eq=False)
class _Link:
    """One client's connection, and the one to the server behind once it is made."""

    writer: asyncio.StreamWriter
    task: asyncio.Task[None]
    upstream: asyncio.StreamWriter | None = None

    def abort(self) -> None:
        for end in (self.writer, self.upstream):
            if end is not None:
                end.transport.abort()


class FaultProxy:
    """Passes connections on to *upstream_host*:*upstream_port* while `mode` is PASS.

    `pace` may be replaced at any time. Each connection has a task; `stop` ends them all and waits for them.
    """

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self.counts = Counts()
        self.pace = Pace()
        self._mode = Mode.PASS
        self._host = ""
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._others: list[asyncio.Server] = []
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._flowing = asyncio.Event()
        self._serving = asyncio.Event()
        self._flowing.set()
        self._serving.set()
        self._running = False

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        """The port listened on; the same after REFUSE and after a restart."""
        return self._port

    @property
    def open_connections(self) -> int:
        """The number of clients' connections, including those that are not served."""
        return len(self._links)

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, extra_sockets: Iterable[socket.socket] = ()
    ) -> None:
        """Listen: without *port* on the one of last time, or on a free one. Raise OSError if it is taken.

        *extra_sockets* are listening sockets made anywhere (in another network namespace); they belong to the proxy
        from now on. REFUSE could not open them again: on them it resets new connections instead.
        """
        if self._running:
            raise RuntimeError("already started")
        self._running = True
        self._host = host
        await self._listen(port or self._port)
        for sock in extra_sockets:
            self._others.append(await asyncio.start_server(self._accepted, sock=sock))
        if self._mode is Mode.REFUSE:
            self._close_listener()

    async def stop(self) -> None:
        """Close the listeners and every connection, and wait until they are closed."""
        self._running = False
        self._close_listener()
        for server in self._others:
            server.close()
        self._others.clear()
        await self._end(tuple(self._links.values()))

    async def set_mode(self, mode: Mode) -> None:
        """Switch the mode. After the return it applies to all clients."""
        self._mode = mode
        for event, held in (
            (self._flowing, {Mode.SILENT}),
            (self._serving, {Mode.SILENT, Mode.HANG}),
        ):
            if mode in held:
                event.clear()
            else:
                event.set()
        if mode is Mode.RESET:
            await self.reset_connections()
        if mode is Mode.REFUSE:
            self._close_listener()
        elif self._running and self._listener is None:
            await self._listen(self._port)

    async def reset_connections(self) -> None:
        """Send RST to every client connected now; the mode stays."""
        links = tuple(self._links.values())
        for link in links:
            _reset(link.writer)
        await self._end(links)

    async def _listen(self, port: int) -> None:
        listener = restartable_listener(self._host, port)
        self._port = listener.getsockname()[1]
        self._listener = await asyncio.start_server(self._accepted, sock=listener)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _end(self, links: Iterable[_Link]) -> None:
        tasks = [link.task for link in links]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # aborted transports close in the next iteration

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._running:  # accepted before stop(), reported after it
            writer.transport.abort()
            return
        self.counts.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="connection through a proxy")
        self._links[task] = _Link(writer, task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Close a connection whose task was cancelled before its first step."""
        self._links.pop(task).abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its end."""
        task = asyncio.current_task()
        link = self._links[task] if task is not None else None
        if link is None:
            raise RuntimeError("a connection is served in its own task")
        try:
            await self._serving.wait()
            if self._mode in {Mode.RESET, Mode.REFUSE}:
                await reader.read(CHUNK)
                _reset(writer)
            else:
                await self._relay(link, reader)
        except* OSError:
            log.debug("a connection through the fault proxy broke off: expected while a fault is on")
            link.abort()
        finally:
            await _close(link)

    async def _relay(self, link: _Link, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            back, link.upstream = await asyncio.open_connection(self.upstream_host, self.upstream_port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._to_server(reader, link.upstream), name="bytes to the server")
            tasks.create_task(self._to_client(back, link.writer), name="bytes to the client")

    async def _to_server(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await self._take(source):
            self.counts.bytes_to_server += len(data)
            await _give(sink, data)
        sink.write_eof()

    async def _to_client(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await self._take(source):
            self.counts.bytes_to_client += len(data)
            await _give(sink, data)
        sink.write_eof()

    async def _take(self, source: asyncio.StreamReader) -> bytes:
        data = await source.read(self.pace.piece)
        if data:
            await self.pace.wait(len(data))
        # The end of a stream is held back like its bytes: a half-open connection does not report its end.
        await self._flowing.wait()
        return data


async def _give(sink: asyncio.StreamWriter, data: bytes) -> None:
    sink.write(data)
    await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    writer.transport.abort()


async def _close(link: _Link) -> None:
    """Close both ends; a cancelled task discards buffered data."""
    if link.task.cancelling():
        link.abort()
    for end in (link.writer, link.upstream):
        if end is None:
            continue
        end.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await end.wait_closed()
        except OSError:
            end.transport.abort()
