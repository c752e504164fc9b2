"""Rate limits."""

import asyncio
from collections.abc import Callable


class TokenBucket:
    """Rate limit with *burst* events immediately and *rate* per second in the long run."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._at = clock()

    def take(self) -> bool:
        """Return whether an event is allowed now; if so, it is counted."""
        self._fill()
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def seconds(self) -> float:
        """Return seconds until the next event is allowed; 0 if it is allowed now."""
        self._fill()
        return max(0.0, (1 - self._level) / self._rate)

    async def wait(self) -> None:
        """Wait until the next event is allowed, and count it."""
        self._fill()
        self._level -= 1
        if self._level < 0:
            await asyncio.sleep(-self._level / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
