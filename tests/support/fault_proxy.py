"""Faults in front of any server, real or emulated: a relay that hangs, refuses, resets or stalls connections."""

import asyncio
import enum
import socket
import struct
from collections.abc import Iterable
from typing import Final

from typing_extensions import override

from podidentity_sandbox.relay import CHUNK, Link, Relay
from podidentity_sandbox.serving import restartable_listener

_LINGER_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, with a time of zero: closing then sends RST (socket(7))."""


class Mode(enum.Enum):
    """The treatment of bytes and connections."""

    PASS = "pass"
    """Everything passes, including bytes that were held back."""
    HANG = "hang"
    """New connections are accepted and not served. Established ones continue."""
    REFUSE = "refuse"
    """The port is closed: connecting fails. Established connections continue."""
    RESET = "reset"
    """Established connections are reset immediately, new ones as soon as they have sent data."""
    SILENT = "silent"
    """Half-open: established connections stay and deliver nothing in either direction; new ones hang."""


class FaultProxy(Relay):
    """A relay with a listener of its own, which treats connections by its `mode`."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        super().__init__(upstream_host, upstream_port)
        self.mode = Mode.PASS
        """Set with `set_mode`."""
        self.host = ""
        self.port = 0
        """The port listened on; the same after REFUSE and after a restart."""
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._serving = asyncio.Event()
        self._flowing.set()
        self._serving.set()

    @property
    def open_connections(self) -> int:
        """The number of clients' connections, including those that are not served."""
        return len(self._links)

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, extra_sockets: Iterable[socket.socket] = ()
    ) -> None:
        """Listen: without *port* on the one of last time, or on a free one. Raise OSError if it is taken.

        The proxy serves *extra_sockets* too. REFUSE could not open them again: on them it resets new connections
        instead.
        """
        if self._running:
            raise RuntimeError("already started")
        await self.serve(extra_sockets)
        self.host = host
        await self._listen(port or self.port)
        if self.mode is Mode.REFUSE:
            self._close_listener()

    @override
    async def stop(self) -> None:
        self._close_listener()
        await super().stop()

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

    @override
    async def _relay(self, link: Link, reader: asyncio.StreamReader) -> None:
        await self._serving.wait()
        if self.mode in {Mode.RESET, Mode.REFUSE}:
            await reader.read(CHUNK)
            _reset(link.writer)
        else:
            await super()._relay(link, reader)

    @override
    async def _take(self, source: asyncio.StreamReader) -> bytes:
        data = await super()._take(source)
        # The end of a stream is held back like its bytes: a half-open connection does not report its end.
        await self._flowing.wait()
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    writer.transport.abort()
