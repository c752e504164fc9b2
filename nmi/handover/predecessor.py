"""The predecessor's end of a handover: NMI serves, and passes everything to a successor that is ready.

Until the successor has confirmed, every failure lets this NMI serve on. Afterwards it is *retired*: it answers its open
requests and passes idle connections on. If the successor's process ends before this one, this one serves again.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from nmi.handover.channel import Channel, ChannelClosedError, close_all, peer_uid
from nmi.handover.messages import (
    DESCRIPTORS_MAX,
    Connections,
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
TAKE_SECONDS: Final = 5.0
"""From the last accepted connection to the successor's confirmation, which takes milliseconds. Until then
connections wait in the kernel.
"""
PASS_STEP_SECONDS: Final = 0.05
"""The interval at which a retired NMI looks for idle connections."""
LISTEN_AGAIN_SECONDS: Final = 30.0
"""The interval at which NMI tries again to listen at a path that it cannot use."""


class HandoverService(Protocol):
    """What NMI passes on."""

    def shared(self, hello: Hello) -> tuple[SocketName, ...]:
        """Return the sockets that this successor can use."""

    async def pause(self, shared: Sequence[SocketName]) -> list[tuple[SocketName, socket.socket]]:
        """Stop maintaining the rules, and stop accepting at the *shared* sockets; return duplicates of them.

        Connections wait in the kernel. The rules remain.
        """

    async def resume(self) -> None:
        """Undo pause()."""

    def retire(self) -> None:
        """Note that the successor serves."""

    def release_idle(self, most: int) -> list[int]:
        """Return the descriptors of idle connections, which the caller closes; *most* at most."""

    def adopt(self, descriptor: int) -> None:
        """Serve a connection, and own its descriptor."""


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
        self._settled = asyncio.Event()
        self._settled.set()
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

    async def settle(self, seconds: float) -> None:
        """Wait until no successor is registered, or until one serves; *seconds* at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._settled.wait()

    async def refuse(self) -> None:
        """Stop: register no successor any more, and serve never again."""
        self._stopping = True
        await self._close_listener()

    async def pass_connections(self, count: Callable[[], int], seconds: float) -> float:
        """While retired, pass connections as they become idle, until *count* is 0, for *seconds* at most.

        Return the part of *seconds* that remains.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with suppress(ChannelClosedError, ProtocolError):
            while self.retired and self._channel is not None and count() and loop.time() < until:
                if not await self._pass_batch(self._channel):
                    await asyncio.sleep(PASS_STEP_SECONDS / 5)
        return max(0.0, until - loop.time())

    async def _listen(self, failed: str) -> str:
        """Listen at the path. Return the error, which is logged unless it equals *failed*."""
        try:
            listener, inode = await asyncio.to_thread(listen_at, self._path)
        except (OSError, UnsafePathError) as error:
            if str(error) != failed:
                log.error(  # noqa: TRY400  the message is complete
                    "NMI listens for no successor, so its upgrade will interrupt pods; correct the path's directory",
                    extra={"error": str(error)},
                )
            return str(error)
        self._listener, self._inode = listener, inode
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
            if self._channel is channel:
                self._channel = None
                self._settled.set()
            channel.close()

    async def _converse(self, channel: Channel) -> None:
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
        await channel.send(Welcome(version=version or 0, release=VERSION, sockets=shared))
        log.info("a successor of this NMI synchronises; NMI serves until it is ready", extra={"version": hello.release})
        try:
            take, _ = await channel.receive()
        except (ChannelClosedError, ProtocolError):
            log.warning("the successor ended before it was ready; NMI continues to serve, look at the successor's log")
            self._metrics.record(Role.PREDECESSOR, HandoverOutcome.FAILED)
            return
        assert isinstance(take, Take)  # noqa: S101
        await self._hand_over(channel, shared)

    def _refusal(self, version: int | None) -> str:
        if version is None:
            return "the releases have no version of the handover in common"
        if self._stopping:
            return "it stops"
        if self.registered:
            return "another successor is registered"
        return ""

    async def _hand_over(self, channel: Channel, shared: Sequence[SocketName]) -> None:
        if self._stopping:
            await channel.send(Rejection("it stops"))
            return
        try:
            await self._pass_sockets(channel, shared)
        except (ChannelClosedError, ProtocolError, TimeoutError, OSError) as error:
            log.warning(
                "the successor did not take over; NMI serves again, look at the successor's log",
                extra={"error": str(error) or type(error).__name__},
            )
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
        await self._stay_retired(channel)

    async def _pass_sockets(self, channel: Channel, shared: Sequence[SocketName]) -> None:
        """Pass the sockets and wait for the confirmation. The caller resumes after an error."""
        passed = await self._service.pause(shared)
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                await channel.send(Sockets(tuple(name for name, _ in passed)), [each.fileno() for _, each in passed])
                taken, _ = await channel.receive()
        finally:
            for _, each in passed:
                each.close()
        assert isinstance(taken, Taken)  # noqa: S101

    async def _stay_retired(self, channel: Channel) -> None:
        """Pass idle connections on until the successor ends, passes on itself, or gives back."""
        passing = asyncio.create_task(self._keep_passing(channel), name="pass idle connections")
        try:
            await channel.send(Retired())
            message, _ = await channel.receive()
            if not isinstance(message, GiveBack):  # PassedOn
                with suppress(ChannelClosedError, ProtocolError):
                    await channel.receive()
                return
            gives_back = True
        except (ChannelClosedError, ProtocolError):
            gives_back = False
        finally:
            passing.cancel()
            await asyncio.wait([passing])
        if self._stopping:
            if gives_back:
                await channel.send(Rejection("it stops, too"))
            return
        self.retired = False
        await self._service.resume()
        self._metrics.record(Role.PREDECESSOR, HandoverOutcome.RETURNED)
        log.warning("the successor has ended; NMI serves again, look at the successor's log")
        if gives_back:
            await channel.send(Resumed())
        await self._listen("")

    async def _keep_passing(self, channel: Channel) -> None:
        with suppress(ChannelClosedError, ProtocolError):  # the other task of this connection notices it, too
            while True:
                if not await self._pass_batch(channel):
                    await asyncio.sleep(PASS_STEP_SECONDS)

    async def _pass_batch(self, channel: Channel) -> bool:
        """Pass some idle connections. Return whether there may be more now."""
        descriptors = self._service.release_idle(DESCRIPTORS_MAX)
        if not descriptors:
            return False
        try:
            await channel.send(Connections(len(descriptors)), descriptors)
        except BaseException as error:
            for each in descriptors:
                self._service.adopt(each)
            if isinstance(error, OSError):  # too many descriptors on their way, for example: try again later
                return False
            raise
        close_all(descriptors)
        return len(descriptors) == DESCRIPTORS_MAX
