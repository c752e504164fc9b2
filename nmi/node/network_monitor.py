"""The kernel's reports about links, neighbours and IPv4 routes of this network namespace (NETLINK_ROUTE).

There are two sockets: pods can cause any number of reports about neighbours (by ARP), but none about links and routes.
So a flood of the former neither delays nor drops the latter. A library is not used, because it would add an event loop
and more memory on each node than all the decoding here.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from nmi.node.rtnetlink import (
    IPV4_ROUTES,
    LINKS,
    NEIGHBOURS,
    DumpInterruptedError,
    MalformedError,
    Message,
    decode,
    decode_reply,
    dump_requests,
)

log = logging.getLogger(__name__)

READS: Final = 128
"""Datagrams that one wake-up reads from each socket; most contain one message."""
WINDOW_SECONDS: Final = 0.1
WAKES: Final = 20
MESSAGES: Final = 256
"""Limits per WINDOW_SECONDS. Above them every read is followed by a pause."""
REST_SECONDS: Final = 0.02
"""The pause after a read in a flood. It limits a flood to 240 reads and 10,000 messages per second."""
DUMP_GAP_SECONDS: Final = 5.0
"""Between two dumps. During a flood of neighbours the kernel loses reports continuously."""
DUMP_BYTES_MAX: Final = 1 << 24
DUMP_TRIES: Final = 4
_BUFFER: Final = 1 << 20
"""Bytes of the kernel's buffer for each socket (it counts twice as many): more than a thousand reports."""
_DATAGRAM_MAX: Final = 1 << 16
_DUMP_SECONDS: Final = 5.0
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h; needs CAP_NET_ADMIN, and is not cut to net.core.rmem_max


class NetworkUpdate(msgspec.Struct):
    """The result of one read."""

    messages: list[Message]
    lost: bool = False
    """Whether reports were lost, so that only a dump shows the current state."""
    more: bool = False
    """Whether there may be more to read."""


class NetworkSource(Protocol):
    """The source of reports: `RouteNetlinkSocket`."""

    def filenos(self) -> Sequence[int]:
        """Return the file descriptors to wait for."""

    def read(self) -> NetworkUpdate:
        """Read up to READS datagrams from each socket. Never blocks. Raises OSError."""

    def dump(self) -> list[Message]:
        """Return the complete current state. Blocks for milliseconds. Raises OSError, MalformedError,
        DumpInterruptedError.
        """

    def close(self) -> None:
        """Close the source."""


class RouteNetlinkSocket:
    """The two sockets. Needs no capability; raises OSError if there is no such netlink family."""

    def __init__(self) -> None:
        self._buffer = bytearray(_DATAGRAM_MAX)
        self._sockets: list[socket.socket] = []
        try:
            # Links and routes first: a neighbour has no meaning on an unknown link.
            for groups in (LINKS | IPV4_ROUTES, NEIGHBOURS):
                self._sockets.append(_socket(groups))
        except OSError:
            self.close()
            raise

    def filenos(self) -> Sequence[int]:
        return [sock.fileno() for sock in self._sockets]

    def read(self) -> NetworkUpdate:
        update = NetworkUpdate([])
        for sock in self._sockets:
            # Reports about links come first; those of neighbours, which pods can cause, wait for the next read.
            if not update.more:
                self._read(sock, update)
        return update

    def dump(self) -> list[Message]:
        for remaining in reversed(range(DUMP_TRIES)):
            try:
                return _dump()
            except DumpInterruptedError:
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _read(self, source: socket.socket, update: NetworkUpdate) -> None:
        for _ in range(READS):
            try:
                size, _, flags, sender = source.recvmsg_into([self._buffer])
            except BlockingIOError:
                return
            except OSError as error:
                # The kernel's buffer was full, so reports are lost, but later ones still arrive.
                if error.errno != errno.ENOBUFS:
                    raise
                update.lost = True
                continue
            if sender[0] != 0:
                continue  # sent by a process of the node, not by the kernel
            # A part of a message proves nothing, so only a complete list shows the state.
            if flags & socket.MSG_TRUNC:
                update.lost = True
                continue
            try:
                update.messages += decode(bytes(self._buffer[:size]))
            except MalformedError:
                update.lost = True
        update.more = True


class NetworkListener(Protocol):
    """The receiver of the reports."""

    def network_changed(self, messages: Iterable[Message]) -> None:
        """Apply these reports, in this order."""

    def network_listed(self, messages: Iterable[Message]) -> None:
        """Replace the state by this complete list."""


class NetworkMonitor:
    """Delivery of the kernel's reports: first the complete state, then each change. `run` is its task."""

    def __init__(
        self, *, make: Callable[[], NetworkSource] = RouteNetlinkSocket, dump_gap_seconds: float = DUMP_GAP_SECONDS
    ) -> None:
        self._make = make
        self._dump_gap_seconds = dump_gap_seconds
        self._lost = asyncio.Event()
        self._failed: OSError | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._window_began = float("-inf")
        self._wakes = 0
        self._messages = 0
        self.listening = False
        self.dumps = 0
        """How often the complete state was listed: once at the start, and after each loss."""

    async def run(self, listener: NetworkListener) -> None:
        """Listen until cancelled. Return after a warning if the kernel gives no reports."""
        try:
            source = await asyncio.to_thread(self._make)
        except OSError as error:
            _warn(error)
            return
        try:
            while self._failed is None:
                await self._list(source, listener)
                self._listen(source, listener)
                self.listening = self._failed is None
                # During a flood reports are lost continuously, and each list costs time in proportion to the node.
                await asyncio.sleep(self._dump_gap_seconds)
                await self._lost.wait()
                self._ignore(source)
            raise self._failed
        except OSError as error:
            _warn(error)
        finally:
            self.listening = False
            self._ignore(source)
            source.close()

    async def _list(self, source: NetworkSource, listener: NetworkListener) -> None:
        """Deliver a dump. The sockets are not read during it, because later reports must be applied after it."""
        self._lost.clear()
        try:
            messages = await asyncio.to_thread(source.dump)
        except (MalformedError, DumpInterruptedError):
            self._lost.set()
            return
        self.dumps += 1
        listener.network_listed(messages)

    def _listen(self, source: NetworkSource, listener: NetworkListener) -> None:
        self._resting = None
        for fd in source.filenos():
            asyncio.get_running_loop().add_reader(fd, self._read, source, listener)

    def _ignore(self, source: NetworkSource) -> None:
        if self._resting is not None:
            self._resting.cancel()
        for fd in source.filenos():
            asyncio.get_running_loop().remove_reader(fd)

    def _read(self, source: NetworkSource, listener: NetworkListener) -> None:
        try:
            update = source.read()
        except OSError as error:
            self._failed = error
            self._ignore(source)
            self._lost.set()
            return
        if update.messages:
            listener.network_changed(update.messages)
        if update.lost:
            self._lost.set()
        loop = asyncio.get_running_loop()
        if self._is_flood(update, loop.time()):
            self._ignore(source)
            self._resting = loop.call_later(REST_SECONDS, self._listen, source, listener)

    def _is_flood(self, update: NetworkUpdate, now: float) -> bool:
        if now - self._window_began >= WINDOW_SECONDS:
            self._window_began, self._wakes, self._messages = now, 0, 0
        self._wakes += 1
        self._messages += len(update.messages)
        return update.more or self._wakes > WAKES or self._messages > MESSAGES


def _socket(groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return sock


def _dump() -> list[Message]:
    messages: list[Message] = []
    read = 0
    # A socket without groups receives replies only, and no reports between them.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as dumping:
        dumping.settimeout(_DUMP_SECONDS)
        dumping.bind((0, 0))
        for sequence, request in dump_requests(1):
            dumping.send(request)
            done = False
            while not done:
                datagram = dumping.recv(_DATAGRAM_MAX)
                read += len(datagram)
                if read > DUMP_BYTES_MAX:
                    raise OSError(errno.EFBIG, "the node has more interfaces, neighbours and routes than are listed")
                reply = decode_reply(datagram, sequence)
                messages += reply.messages
                done = reply.done
    return messages


def _warn(error: OSError) -> None:
    log.warning(
        "no reports about this node's network, NMI notices a reused address through the API server only; check that "
        "NMI may open netlink sockets",
        extra={"error": str(error)},
    )
