"""Faults in front of any server, real or emulated: a proxy that hangs, refuses, resets or stalls connections.

It does not read the bytes, so it works in front of TLS too, and the server needs no support for it. Without a fault it
is a relay.
"""

import asyncio
import enum
import logging
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
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

    Each connection has a task; `stop` ends them all and waits for them.
    """

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self.mode = Mode.PASS
        """Set with `set_mode`."""
        self.host = ""
        self.port = 0
        """The port listened on; the same after REFUSE and after a restart."""
        self._listener: asyncio.Server | None = None
        self._others: list[asyncio.Server] = []
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._flowing = asyncio.Event()
        self._serving = asyncio.Event()
        self._flowing.set()
        self._serving.set()
        self._running = False

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
        self.host = host
        await self._listen(port or self.port)
        for sock in extra_sockets:
            self._others.append(await asyncio.start_server(self._accepted, sock=sock))
        if self.mode is Mode.REFUSE:
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
        self.mode = mode
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
            await self._listen(self.port)

    async def reset_connections(self) -> None:
        """Send RST to every client connected now; the mode stays."""
        links = tuple(self._links.values())
        for link in links:
            _reset(link.writer)
        await self._end(links)

    async def _listen(self, port: int) -> None:
        listener = restartable_listener(self.host, port)
        self.port = listener.getsockname()[1]
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
            if self.mode in {Mode.RESET, Mode.REFUSE}:
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
            tasks.create_task(self._copy(reader, link.upstream), name="bytes to the server")
            tasks.create_task(self._copy(back, link.writer), name="bytes to the client")

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await self._take(source):
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    async def _take(self, source: asyncio.StreamReader) -> bytes:
        data = await source.read(CHUNK)
        # The end of a stream is held back like its bytes: a half-open connection does not report its end.
        await self._flowing.wait()
        return data


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
