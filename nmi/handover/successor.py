"""The successor's end of a handover: an NMI that starts while another one serves this node."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from nmi.handover.channel import Channel, ChannelClosedError
from nmi.handover.connection_sender import ConnectionOwner, ConnectionSender
from nmi.handover.messages import (
    ACKNOWLEDGED_VERSION,
    TOKEN_MESSAGES_MAX,
    Adopted,
    Connections,
    GiveBack,
    Hello,
    Message,
    PassedOn,
    ProtocolError,
    Rejection,
    Resumed,
    SocketName,
    Sockets,
    Take,
    Taken,
    Tokens,
    Welcome,
)
from nmi.handover.metrics import HandoverMetrics, HandoverOutcome
from nmi.handover.protocol import Role
from nmi.handover.socket_path import UnsafePathError, connect_to
from podidentity.exits import StartError

log = logging.getLogger(__name__)

RESPONSE_SECONDS: Final = 10.0
"""The limit for each response of the predecessor, which takes milliseconds."""


class HandoverError(Exception):
    """A handover is not possible now. The message states the cause."""


async def meet(path: Path, hello: Hello, metrics: HandoverMetrics) -> "Successor | None":
    """Return the conversation with the NMI that serves this node; None if none listens at *path*.

    Raise HandoverError if it refuses, or cannot be understood.
    """
    try:
        sock = await asyncio.to_thread(connect_to, path)
    except (OSError, UnsafePathError) as error:
        raise HandoverError(str(error)) from error
    if sock is None:
        return None
    channel = Channel(sock, Role.SUCCESSOR)
    try:
        async with asyncio.timeout(RESPONSE_SECONDS):
            await channel.send(hello)
            response, _ = await channel.receive()
    except (ChannelClosedError, ProtocolError, TimeoutError, OSError) as error:
        channel.close()
        raise HandoverError(f"no answer at {path}: {str(error) or type(error).__name__}") from error
    except BaseException:
        channel.close()
        raise
    if isinstance(response, Rejection):
        channel.close()
        raise HandoverError(f"the NMI that serves this node refuses a successor: {response.reason}")
    assert isinstance(response, Welcome)  # noqa: S101  the conversation has checked it
    log.info("another NMI serves this node; NMI synchronises and then takes over", extra={"version": response.release})
    return Successor(channel, response, metrics)


class Successor:
    """One conversation with the predecessor. Ends with close()."""

    def __init__(self, channel: Channel, welcome: Welcome, metrics: HandoverMetrics) -> None:
        self._channel = channel
        self._metrics = metrics
        self._given_back: asyncio.Future[bool] | None = None
        self._sender: ConnectionSender | None = None
        self._sending: asyncio.Task[None] | None = None
        self._acknowledges = welcome.version >= ACKNOWLEDGED_VERSION
        self.shared = frozenset(welcome.sockets)
        """The sockets that the predecessor will pass."""
        self.attached = True
        """Whether the predecessor's process exists, and would serve again if this one ended."""

    async def take(
        self, receive_tokens: Callable[[Sequence[bytes]], tuple[int, int]] = lambda _: (0, 0)
    ) -> list[tuple[SocketName, socket.socket]]:
        """Return the predecessor's sockets; it accepts no connections from now on. Raise HandoverError.

        *receive_tokens* gets the packets with tokens, and returns the number of stored tokens and of refused ones.
        """
        try:
            async with asyncio.timeout(RESPONSE_SECONDS):
                await self._channel.send(Take())
                message, descriptors = await self._after_tokens(receive_tokens)
        except (ChannelClosedError, ProtocolError, TimeoutError, OSError) as error:
            raise self._failed(str(error) or type(error).__name__) from error
        if isinstance(message, Rejection):
            raise self._failed(message.reason)
        assert isinstance(message, Sockets)  # noqa: S101
        return [
            (name, socket.socket(fileno=descriptor))
            for name, descriptor in zip(message.names, descriptors, strict=True)
        ]

    async def _after_tokens(
        self, receive_tokens: Callable[[Sequence[bytes]], tuple[int, int]]
    ) -> tuple[Message, list[int]]:
        """Return the message that follows the tokens."""
        packets: list[bytes] = []
        # A predecessor that sends tokens without end must not keep this NMI from serving.
        for _ in range(TOKEN_MESSAGES_MAX + 1):
            message, descriptors = await self._channel.receive()
            if not isinstance(message, Tokens):
                break
            packets.append(message.packet)
        else:
            raise ProtocolError("too many messages with tokens")
        received, refused = receive_tokens(packets)
        self._metrics.record_tokens(received, refused)
        if refused:
            log.warning(
                "the former NMI passed tokens that this NMI does not accept; it fetches these itself",
                extra={"count": refused},
            )
        log.info("tokens received from the former NMI", extra={"count": received})
        return message, descriptors

    async def confirm(self) -> None:
        """Report that this NMI serves from now on, and wait until the predecessor has noticed.

        Raise StartError if the predecessor serves again, because this took too long. If its process has ended, this
        NMI continues.
        """
        try:
            async with asyncio.timeout(RESPONSE_SECONDS):
                rejection = await self._confirmed()
        except (ProtocolError, TimeoutError) as error:
            self.close()
            raise StartError(f"the NMI that serves this node did not confirm the handover: {error}") from error
        if rejection is not None:
            raise StartError(
                f"the NMI that served this node did not hand over ({rejection.reason}); NMI ends, and its next start "
                f"tries again"
            ) from self._failed(rejection.reason)
        self._metrics.record(Role.SUCCESSOR, HandoverOutcome.COMPLETED)
        log.info("this NMI has taken over; the former one completes its open requests")

    async def _confirmed(self) -> Rejection | None:
        """Return the predecessor's rejection, or None if it is retired or its process has ended."""
        with suppress(ChannelClosedError):  # a rejection may have arrived before
            await self._channel.send(Taken())
        try:
            message, _ = await self._channel.receive()
        except (ChannelClosedError, OSError):
            # The former NMI cannot reject the handover any more, so this one must serve.
            self.attached = False
            return None
        return message if isinstance(message, Rejection) else None

    async def follow(self, owner: ConnectionOwner) -> None:
        """Adopt the predecessor's idle connections until it ends."""
        try:
            while True:
                message, descriptors = await self._channel.receive()
                for descriptor in descriptors:
                    owner.adopt(descriptor)
                await self._respond(message, owner)
        except ChannelClosedError:
            log.info("the former NMI has ended")
        except ProtocolError as error:
            log.warning("the former NMI violates the protocol of the handover", extra={"error": str(error)})
        finally:
            self.attached = False
            if self._given_back is not None and not self._given_back.done():
                self._given_back.set_result(False)
            if self._sending is not None:
                self._sending.cancel()
                await asyncio.wait([self._sending])
            self._channel.close()

    async def _respond(self, message: Message, owner: ConnectionOwner) -> None:
        if isinstance(message, Connections):
            if self._acknowledges:
                await self._channel.send(Adopted())
        elif isinstance(message, Adopted):
            if self._sender is not None:
                self._sender.acknowledge()
        elif self._given_back is not None and not self._given_back.done():
            resumed = isinstance(message, Resumed)
            if resumed and self._acknowledges:
                self._sender = ConnectionSender(self._channel, owner, acknowledged=True)
                self._sending = asyncio.create_task(self._sender.run(), name="return idle connections")
            self._given_back.set_result(resumed)

    async def give_back(self) -> bool:
        """Ask the predecessor to serve again, and then return connections. Return whether it does.

        `follow` must be running.
        """
        if not self.attached:
            return False
        self._given_back = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(RESPONSE_SECONDS):
                await self._channel.send(GiveBack())
                given_back = await self._given_back
        except (ChannelClosedError, ProtocolError, TimeoutError, OSError):
            return False
        if given_back:
            self._metrics.record(Role.SUCCESSOR, HandoverOutcome.RETURNED)
        return given_back

    async def return_connections(self, count: Callable[[], int], seconds: float) -> float:
        """After give_back(), wait until all connections are returned and *count* is 0, *seconds* at most.

        Return the part of *seconds* that remains.
        """
        return seconds if self._sender is None else await self._sender.all_passed(count, seconds)

    async def pass_on(self) -> None:
        """Report that another NMI serves now: the predecessor must not serve again when this one ends."""
        if self.attached:
            with suppress(ChannelClosedError, ProtocolError, OSError):
                await self._channel.send(PassedOn())

    def close(self) -> None:
        """End the conversation. Idempotent."""
        self.attached = False
        self._channel.close()

    def _failed(self, reason: str) -> HandoverError:
        self._metrics.record(Role.SUCCESSOR, HandoverOutcome.FAILED)
        self.close()
        return HandoverError(f"the handover failed: {reason}")
