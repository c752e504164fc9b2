"""Rate limit and order of writes to the API server: within a rate, fair between hosts, urgent ones first.

A rollout of thousands of pods on one scale set waits here. A single pod's write for another host must not wait behind
it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

from podidentity.telemetry.token_bucket import TokenBucket

LEAST_SHARE: Final = 10
"""One of this many permits goes to the least urgent write, so that none waits forever."""


class Urgency(IntEnum):
    """Order of waiting writes."""

    REVOKE = 0
    """NMI must stop serving a pod."""
    ASSIGN = 1
    """A pod waits for an identity."""
    TIDY = 2
    """No pod waits: the release of objects and completed detaches."""


class WriteLimiter:
    """Permits for one request each: *in_flight* concurrently, *per_second* on average, *burst* after an idle time.

    Within one urgency, hosts are served round-robin. Belongs to one event loop.
    """

    def __init__(
        self, *, in_flight: int, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._free = in_flight
        # A bucket for less than one token would never grant a permit.
        self._bucket = TokenBucket(per_second, max(1.0, burst), clock)
        self._lines: dict[Urgency, dict[str, deque[asyncio.Future[None]]]] = {urgency: {} for urgency in Urgency}
        self._granted = 0
        self._alarm: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def permit(self, urgency: Urgency, host: str) -> AsyncIterator[None]:
        """Wait for a permit and hold it."""
        waiting = asyncio.get_running_loop().create_future()
        self._lines[urgency].setdefault(host, deque()).append(waiting)
        self._grant()
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._give_back()  # granted and cancelled in one iteration of the loop: no write uses the permit
            raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        """Grant permits as far as the rate allows, and set a timer for the next."""
        if self._alarm is not None:  # the rate is used up until then
            return
        while self._free > 0 and (lines := self._next_lines()) is not None:
            if not self._bucket.take():
                self._alarm = asyncio.get_running_loop().call_later(self._bucket.seconds(), self._again)
                return
            host, line = next(iter(lines.items()))
            del lines[host]
            first = line.popleft()
            if line:
                lines[host] = line  # at the end: other hosts are served first
            first.set_result(None)
            self._free -= 1
            self._granted += 1

    def _again(self) -> None:
        self._alarm = None
        self._grant()

    def _next_lines(self) -> dict[str, deque[asyncio.Future[None]]] | None:
        """Return the queues of the next urgency; None if no write waits."""
        order = sorted(Urgency, reverse=self._granted % LEAST_SHARE == LEAST_SHARE - 1)
        for urgency in order:
            lines = self._lines[urgency]
            while lines:
                host, line = next(iter(lines.items()))
                # Removed here: a removal at the cancellation would search the line.
                while line and line[0].cancelled():
                    line.popleft()
                if line:
                    return lines
                del lines[host]
        return None
