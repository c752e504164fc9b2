"""One connection of a handover: messages and descriptors over a Unix socket that keeps the borders of packets."""

import array
import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from nmi.handover.messages import (
    DESCRIPTORS_MAX,
    PACKET_MAX,
    Message,
    ProtocolError,
    decode,
    descriptors_of,
    encode,
)
from nmi.handover.protocol import Conversation, Role

_CREDENTIALS: Final = struct.Struct("3i")
_ENDED: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF, errno.ESHUTDOWN})
_INT_SIZE: Final = array.array("i").itemsize


class ChannelClosedError(Exception):
    """The peer has closed the connection, or its process has ended."""


class Channel:
    """One end. Any task sends, one message at a time; at most one task receives."""

    def __init__(self, sock: socket.socket, role: Role) -> None:
        """Take ownership of *sock*."""
        sock.setblocking(False)
        self._socket = sock
        self._sending = asyncio.Lock()
        self.conversation = Conversation(role)

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send *message* with its *descriptors*, which the caller keeps.

        Raise ProtocolError before anything is sent, ChannelClosedError, or OSError if the kernel does not pass
        descriptors now.
        """
        if len(descriptors) != descriptors_of(message):
            raise ProtocolError("a message has the wrong number of descriptors")
        packet = encode(message)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        async with self._sending:
            # In the lock, so that the order that is checked is the order on the wire.
            self.conversation.sent(message)
            while True:
                try:
                    self._socket.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await self._until(writable=True)
                except OSError as error:
                    if error.errno in _ENDED:
                        raise ChannelClosedError from None
                    raise
                else:
                    return

    async def receive(self) -> tuple[Message, list[int]]:
        """Return the next message and its descriptors, which the caller must close.

        Raise ProtocolError for anything but a message that the protocol allows now, and ChannelClosedError.
        """
        reset = False
        while True:
            try:
                packet, ancillary, flags, _ = self._socket.recvmsg(
                    PACKET_MAX + 1, socket.CMSG_SPACE(DESCRIPTORS_MAX * _INT_SIZE), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await self._until(writable=False)
            except OSError as error:
                # A peer that closes without reading causes this error once. Its earlier packets can be read then.
                if not isinstance(error, ConnectionResetError) or reset:
                    raise ChannelClosedError from error
                reset = True
            else:
                break
        descriptors = _descriptors(ancillary)
        try:
            return self._message(packet, flags, len(descriptors)), descriptors
        except BaseException:
            close_all(descriptors)
            raise

    def _message(self, packet: bytes, flags: int, descriptors: int) -> Message:
        if not packet:
            raise ChannelClosedError
        # The kernel has discarded the rest, so neither the message nor its descriptors are complete.
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("a packet is too large")
        message = decode(packet)
        if descriptors != descriptors_of(message):
            raise ProtocolError("a message has the wrong number of descriptors")
        self.conversation.received(message)
        return message

    async def _until(self, *, writable: bool) -> None:
        """Wait until the socket is ready. Raise ChannelClosedError if this end is closed."""
        if self._socket.fileno() < 0:
            raise ChannelClosedError
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        watched = self._socket.dup()  # close() may close the other one while this task waits
        add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)

        def is_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        add(watched.fileno(), is_ready)
        try:
            await ready
        finally:
            remove(watched.fileno())
            watched.close()

    def close(self) -> None:
        """Close this end, and wake a task that waits on it. Idempotent."""
        if self._socket.fileno() >= 0:
            with suppress(OSError):  # the peer was faster
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


def peer_uid(sock: socket.socket) -> int:
    """Return the user id with which the peer of a connected Unix socket has connected, or has listened."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def close_all(descriptors: Iterable[int]) -> None:
    """Close each of *descriptors*."""
    for descriptor in descriptors:
        os.close(descriptor)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % _INT_SIZE])
    return list(descriptors)
