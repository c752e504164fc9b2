"""The predecessor's end of a handover: NMI serves, and passes everything to a successor that is ready.

Until the successor has confirmed, every failure lets this NMI serve on. Afterwards it is *retired*: it answers its open
requests and passes idle connections on. If the successor's process ends before this one, or the successor gives back,
this one serves again, and adopts the connections that the successor returns.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from nmi.handover.channel import Channel, ChannelClosedError, peer_uid
from nmi.handover.connection_sender import ConnectionOwner, ConnectionSender
from nmi.handover.messages import (
    ACKNOWLEDGED_VERSION,
    TOKEN_MESSAGES_MAX,
    TOKENS_VERSION,
    Adopted,
    GiveBack,
    Hello,
    ProtocolError,
    Rejection,
    Resumed,
    Retired,
    SocketName,
    Sockets,
    Take,
    Taken,
    Tokens,
    Welcome,
    common_version,
)
from nmi.handover.metrics import HandoverMetrics, HandoverOutcome
from nmi.handover.protocol import Role
from nmi.handover.socket_path import UnsafePathError, listen_at, remove_own
from podidentity.version import VERSION

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 8
"""Open connections to the socket; further ones are closed immediately."""
HELLO_SECONDS: Final = 5.0
"""From connecting to the first message."""
TOKENS_SECONDS: Final = 5.0
"""The time limit for all messages with tokens. They take some ten milliseconds, in which NMI still serves."""
TAKE_SECONDS: Final = 5.0
"""From the last accepted connection to the successor's confirmation, which takes milliseconds. Until then
connections wait in the kernel.
"""
ACKNOWLEDGE_SECONDS: Final = 5.0
"""From the successor's wish to give back to its acknowledgement of the last connections, which takes milliseconds."""
LISTEN_AGAIN_SECONDS: Final = 30.0
"""The interval at which NMI tries again to listen at a path that it cannot use."""


class HandoverService(ConnectionOwner, Protocol):
    """The part of NMI that a handover passes to the successor."""

    def shared(self, hello: Hello) -> tuple[SocketName, ...]:
        """Return the sockets that this successor can use."""

    def tokens(self) -> Iterator[bytes]:
        """Return packets with cached tokens for the successor, the most useful first."""

    async def pause(self, shared: Sequence[SocketName]) -> list[tuple[SocketName, socket.socket]]:
        """Stop maintaining the rules, and stop accepting at the *shared* sockets; return duplicates of them.

        Connections wait in the kernel. The rules remain.
        """

    async def resume(self) -> None:
        """Undo pause()."""

    def retire(self) -> None:
        """Note that the successor serves."""


class Predecessor:
    """The socket at *path*, and at most one successor. `run` is a task of the owner."""

    def __init__(self, path: Path, service: HandoverService, metrics: HandoverMetrics) -> None:
        self._path = path
        self._service = service
        self._metrics = metrics
        self._listener: socket.socket | None = None
        self._inode = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: Channel | None = None
        self._sender: ConnectionSender | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._arrived = asyncio.Event()
        """Set while a successor is registered or serves."""
        self._stopping = False
        self.retired = False
        """Whether a successor serves."""

    @property
    def registered(self) -> bool:
        """Whether a successor is synchronising, or serves."""
        return self._channel is not None

    def state(self) -> str:
        """Return the state for the debug page."""
        if self.retired:
            return "retired"
        return "successor registered" if self.registered else "serving"

    async def run(self) -> None:
        """Listen until cancelled, except while retired. Then end every conversation."""
        failed = ""
        try:
            while True:
                if self._listener is None and not self.retired and not self._stopping:
                    failed = await self._listen(failed)
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close_listener()

    async def wait_for_registration(self, seconds: float) -> None:
        """Return when a successor is registered or serves, or after *seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    async def settle(self, seconds: float) -> None:
        """Wait until no successor is registered, or until one serves; *seconds* at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._settled.wait()

    async def refuse(self) -> None:
        """Stop: accept no further successor, and do not serve again."""
        self._stopping = True
        await self._close_listener()

    async def pass_connections(self, count: Callable[[], int], seconds: float) -> float:
        """While retired, wait until all connections are passed and *count* is 0, *seconds* at most.

        Return the part of *seconds* that remains.
        """
        return seconds if self._sender is None else await self._sender.all_passed(count, seconds)

    async def _listen(self, failed: str) -> str:
        """Listen at the path. Return the error, which is logged unless it equals *failed*."""
        creating = asyncio.create_task(asyncio.to_thread(listen_at, self._path))
        try:
            listener, self._inode = await asyncio.shield(creating)
        except asyncio.CancelledError:  # the thread continues
            with suppress(OSError, UnsafePathError):
                self._listener, self._inode = await creating
            await self._close_listener()
            raise
        except (OSError, UnsafePathError) as error:
            if str(error) != failed:
                log.error(  # noqa: TRY400  the message is complete
                    "NMI listens for no successor, so its upgrade will interrupt pods; correct the path's directory",
                    extra={"error": str(error)},
                )
            return str(error)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)
        return ""

    async def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        asyncio.get_running_loop().remove_reader(listener.fileno())
        listener.close()
        await asyncio.to_thread(remove_own, self._path, self._inode)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        # The kernel states the user of the peer; only NMI's own user may take its sockets and tokens.
        if len(self._tasks) >= CONNECTIONS_MAX or peer_uid(sock) != os.geteuid():
            log.warning("a connection to the handover socket was closed; find the program that opens it")
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock), name="handover")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a handover failed because of a defect; report this traceback", exc_info=error)

    async def _serve(self, sock: socket.socket) -> None:
        channel = Channel(sock, Role.PREDECESSOR)
        try:
            await self._converse(channel)
        except (ChannelClosedError, ProtocolError, TimeoutError, OSError) as error:
            log.info("a connection to the handover socket ended", extra={"error": str(error) or type(error).__name__})
        finally:
            self._unregister(channel)
            channel.close()

    def _unregister(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
            self._settled.set()
            if not self.retired:
                self._arrived.clear()

    async def _converse(self, channel: Channel) -> None:
        # A peer without a message must not occupy one of the few places.
        async with asyncio.timeout(HELLO_SECONDS):
            hello, _ = await channel.receive()
        assert isinstance(hello, Hello)  # noqa: S101  the conversation has checked it
        version = common_version(hello.versions)
        if reason := self._refusal(version):
            await channel.send(Rejection(reason))
            return
        shared = self._service.shared(hello)
        self._channel = channel
        self._settled.clear()
        self._arrived.set()
        await channel.send(Welcome(version=version or 0, release=VERSION, sockets=shared))
        log.info("a successor of this NMI synchronises; NMI serves until it is ready", extra={"version": hello.release})
        try:
            take, _ = await channel.receive()
        except (ChannelClosedError, ProtocolError):
            log.warning("the successor ended before it was ready; NMI continues to serve, look at the successor's log")
            self._metrics.record(Role.PREDECESSOR, HandoverOutcome.FAILED)
            return
        assert isinstance(take, Take)  # noqa: S101
        await self._hand_over(channel, shared, version or 0)

    def _refusal(self, version: int | None) -> str:
        if version is None:
            return "the releases have no version of the handover in common"
        if self._stopping:
            return "it stops"
        # Two successors would both take the sockets and serve.
        if self.registered:
            return "another successor is registered"
        return ""

    async def _hand_over(self, channel: Channel, shared: Sequence[SocketName], version: int) -> None:
        if self._stopping:
            await channel.send(Rejection("it stops"))
            return
        if version >= TOKENS_VERSION and not await self._pass_tokens(channel):
            self._metrics.record(Role.PREDECESSOR, HandoverOutcome.FAILED)
            return
        try:
            await self._pass_sockets(channel, shared)
        except (ChannelClosedError, ProtocolError, TimeoutError, OSError) as error:
            log.warning(
                "the successor did not take over; NMI serves again, look at the successor's log",
                extra={"error": str(error) or type(error).__name__},
            )
            # Before this NMI serves again: a successor that confirms late must not serve as well.
            with suppress(ChannelClosedError, ProtocolError, OSError):
                await channel.send(Rejection("it serves again, because the successor did not confirm in time"))
            await self._service.resume()
            self._metrics.record(Role.PREDECESSOR, HandoverOutcome.FAILED)
            return
        await self._close_listener()
        self.retired = True
        self._service.retire()
        self._settled.set()
        self._metrics.record(Role.PREDECESSOR, HandoverOutcome.COMPLETED)
        log.info("the successor serves; NMI completes its open requests and waits for its end")
        await self._stay_retired(channel, acknowledged=version >= ACKNOWLEDGED_VERSION)

    async def _pass_tokens(self, channel: Channel) -> bool:
        """Pass the tokens while this NMI still serves. Return whether the successor continues."""
        try:
            async with asyncio.timeout(TOKENS_SECONDS):
                for packet in islice(self._service.tokens(), TOKEN_MESSAGES_MAX):
                    await channel.send(Tokens(packet))
                    await asyncio.sleep(0)  # other tasks of this NMI run between two packets
        except (ChannelClosedError, ProtocolError, TimeoutError, OSError) as error:
            log.warning(
                "the successor does not read its tokens; NMI continues to serve, look at the successor's log",
                extra={"error": str(error) or type(error).__name__},
            )
            return False
        return True

    async def _pass_sockets(self, channel: Channel, shared: Sequence[SocketName]) -> None:
        """Pass the sockets and wait for the confirmation. The caller resumes after an error."""
        # After the tokens: from here on connections wait in the kernel, so the rest must be short.
        passed = await self._service.pause(shared)
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                await channel.send(Sockets(tuple(name for name, _ in passed)), [sock.fileno() for _, sock in passed])
                taken, _ = await channel.receive()
        finally:
            for _, sock in passed:
                sock.close()
        assert isinstance(taken, Taken)  # noqa: S101

    async def _stay_retired(self, channel: Channel, *, acknowledged: bool) -> None:
        """Pass idle connections on until the successor ends, passes on itself, or gives back."""
        sender = self._sender = ConnectionSender(channel, self._service, acknowledged=acknowledged)
        passing = asyncio.create_task(sender.run(), name="pass idle connections")
        try:
            gives_back = await self._until_end(channel, sender)
        finally:
            passing.cancel()
            await asyncio.wait([passing])
        if gives_back is None:
            return
        if self._stopping:
            if gives_back:
                await channel.send(Rejection("it stops, too"))
            return
        self.retired = False
        self._sender = None
        await self._service.resume()
        self._metrics.record(Role.PREDECESSOR, HandoverOutcome.RETURNED)
        log.warning("the successor has ended; NMI serves again, look at the successor's log")
        if gives_back:
            await channel.send(Resumed())
        self._unregister(channel)
        await self._listen("")
        if gives_back:
            await self._adopt_returned(channel)

    async def _until_end(self, channel: Channel, sender: ConnectionSender) -> bool | None:
        """Return whether the successor gives back, False if it has ended, None if it has ended after passing on."""
        passed_on = False
        try:
            await channel.send(Retired())
            while True:
                message, _ = await channel.receive()
                if isinstance(message, GiveBack):
                    break
                if isinstance(message, Adopted):
                    sender.acknowledge()
                else:
                    passed_on = True
            # The successor stops, so it gets no further connections.
            sender.stop()
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                while sender.waits:
                    await channel.receive()
                    sender.acknowledge()
        except (ChannelClosedError, ProtocolError, TimeoutError):
            return None if passed_on else False
        return True

    async def _adopt_returned(self, channel: Channel) -> None:
        """Adopt the successor's connections until it ends."""
        while True:
            _, descriptors = await channel.receive()
            for descriptor in descriptors:
                self._service.adopt(descriptor)
            await channel.send(Adopted())
