"""Whose turn it is to send the next write to the API server: within a rate, fair between hosts, urgent ones first.

A rollout of thousands of pods on one scale set waits here, and a single pod's write for another host must not wait
behind it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

from podidentity.kube.rates import TokenBucket

LEAST_SHARE: Final = 10
"""Of this many turns one goes to what is least urgent, so that nothing waits for ever."""


class Urgency(IntEnum):
    """The order in which what waits is sent."""

    REVOKE = 0
    """Somebody must not be served any longer."""
    ASSIGN = 1
    """Somebody waits for an identity."""
    TIDY = 2
    """Nobody waits: objects whose host is clean, and their debts."""


class WriteLimiter:
    """Turns to send one request each: *in_flight* at once, *per_second* in the long run, *burst* after a quiet time.

    Within one urgency, hosts take turns. Belongs to one event loop.
    """

    def __init__(
        self, *, in_flight: int, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._free = in_flight
        self._bucket = TokenBucket(per_second, max(1.0, burst), clock)
        self._lines: dict[Urgency, dict[str, deque[asyncio.Future[None]]]] = {each: {} for each in Urgency}
        self._turns = 0
        self._alarm: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def permit(self, urgency: Urgency, host: str) -> AsyncIterator[None]:
        """Wait for a turn and have it."""
        mine = asyncio.get_running_loop().create_future()
        self._lines[urgency].setdefault(host, deque()).append(mine)
        self._grant()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._give_back()
            raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        """Give turns to whoever may have one now, and come back when the rate allows the next."""
        if self._alarm is not None:
            return
        while self._free > 0 and (lines := self._next_lines()) is not None:
            if not self._bucket.take():
                self._alarm = asyncio.get_running_loop().call_later(self._bucket.seconds(), self._again)
                return
            host, line = next(iter(lines.items()))
            del lines[host]
            first = line.popleft()
            if line:
                lines[host] = line  # at the end: the others come first
            first.set_result(None)
            self._free -= 1
            self._turns += 1

    def _again(self) -> None:
        self._alarm = None
        self._grant()

    def _next_lines(self) -> dict[str, deque[asyncio.Future[None]]] | None:
        """The lines of the urgency whose turn it is; None where nobody waits."""
        order = sorted(Urgency, reverse=self._turns % LEAST_SHARE == LEAST_SHARE - 1)
        for urgency in order:
            lines = self._lines[urgency]
            while lines:
                host, line = next(iter(lines.items()))
                while line and line[0].cancelled():
                    line.popleft()
                if line:
                    return lines
                del lines[host]
        return None
