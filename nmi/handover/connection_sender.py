"""The sender of idle connections: from a retired NMI to its successor, or back from a successor that stops.

The receiver acknowledges each batch. Until then the sender keeps the descriptors: if the channel ends first, the sender
serves these connections again, so none is lost with a packet that no process has read.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from nmi.handover.channel import Channel, ChannelClosedError, close_all
from nmi.handover.messages import DESCRIPTORS_MAX, Connections, ProtocolError

STEP_SECONDS: Final = 0.05
"""The interval at which the sender looks for idle connections."""
LAST_STEP_SECONDS: Final = 0.01
"""The interval while the NMI that stops waits for its last connections."""


class ConnectionOwner(Protocol):
    """The server whose connections are passed, or that receives them."""

    def release_idle(self, most: int) -> list[int]:
        """Return the descriptors of idle connections, which the caller closes; *most* at most."""

    def adopt(self, descriptor: int) -> None:
        """Serve a connection, and own its descriptor."""


class ConnectionSender:
    """One direction of one channel. `run` is a task of the owner and the only sender of connections."""

    def __init__(self, channel: Channel, owner: ConnectionOwner, *, acknowledged: bool) -> None:
        """Without *acknowledged* the peer does not know the acknowledgement, and a batch that was sent is complete."""
        self._channel = channel
        self._owner = owner
        self._acknowledged = acknowledged
        self._batch: list[int] = []
        self._adopted = asyncio.Event()
        self._step = STEP_SECONDS
        self._stopped = False
        self.ended = False
        """Whether `run` has ended: no connection is passed any more."""

    @property
    def waits(self) -> bool:
        """Whether a batch is not acknowledged yet."""
        return bool(self._batch)

    async def run(self) -> None:
        """Pass connections as they become idle, until stop() or the end of the channel."""
        try:
            while not self._stopped:
                if not await self._pass_batch():
                    await asyncio.sleep(self._step)
        except (ChannelClosedError, ProtocolError):
            pass  # the receiving task of this channel notices it, too
        finally:
            self.ended = True
            self._take_back()

    def acknowledge(self) -> None:
        """Note that the peer owns the batch. Raise ProtocolError if there is none."""
        if not self._batch:
            raise ProtocolError("the peer acknowledges connections that were not sent")
        batch, self._batch = self._batch, []
        # The peer owns the connections now; while a duplicate is open here, they would not end with it.
        close_all(batch)
        self._adopted.set()

    def stop(self) -> None:
        """Begin no further batch. The last one may still have to be acknowledged."""
        self._stopped = True

    async def all_passed(self, count: Callable[[], int], seconds: float) -> float:
        """Wait until *count*, the number of open connections, is 0 and the peer owns them, *seconds* at most.

        Return the part of *seconds* that remains.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._step = LAST_STEP_SECONDS
        while (left := until - loop.time()) > 0:
            if self.ended or not (count() or self._batch):
                return left
            await asyncio.sleep(LAST_STEP_SECONDS)
        return 0.0

    async def _pass_batch(self) -> bool:
        """Pass some idle connections, and wait until the peer owns them. Return whether there were any."""
        self._batch = self._owner.release_idle(DESCRIPTORS_MAX)
        if not self._batch:
            return False
        self._adopted.clear()
        try:
            await self._channel.send(Connections(len(self._batch)), self._batch)
        except OSError:  # too many descriptors on their way, for example: try again later
            self._take_back()
            return False
        if not self._acknowledged:
            self.acknowledge()
        await self._adopted.wait()
        return True

    def _take_back(self) -> None:
        batch, self._batch = self._batch, []
        for descriptor in batch:
            self._owner.adopt(descriptor)
