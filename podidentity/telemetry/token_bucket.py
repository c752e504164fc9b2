"""Rate limits."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

GROUPS_MAX: Final = 1024
"""Groups whose share is remembered; the one that was used the longest ago is forgotten."""
ONE: Final = 1 - 1e-9
"""Level at which an event is allowed: the level is a sum of many rounded parts."""


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
        if self._level < ONE:
            return False
        self._level -= 1
        return True

    def seconds(self) -> float:
        """Return seconds until the next event is allowed; 0 if it is allowed now."""
        self._fill()
        return 0.0 if self._level >= ONE else (1 - self._level) / self._rate

    async def wait(self) -> None:
        """Wait until the next event is allowed, and count it."""
        self._fill()
        # Before the pause, so that concurrent callers wait one after the other.
        self._level -= 1
        if self._level < 0:
            await asyncio.sleep(-self._level / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


class SharedTokenBucket:
    """A token bucket of which one group of events (a namespace, for example) takes at most a *share*."""

    def __init__(self, rate: float, burst: float, share: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate * share, burst * share, clock
        self._total = TokenBucket(rate, burst, clock)
        self._groups: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, group: str) -> bool:
        """Return whether an event of *group* may happen now; if so, it counts as having happened."""
        bucket = self._groups.pop(group, None) or TokenBucket(self._rate, self._burst, self._clock)
        self._groups[group] = bucket
        # A forgotten group has its whole share again, but the total still applies.
        if len(self._groups) > GROUPS_MAX:
            self._groups.popitem(last=False)
        # The group's bucket is read first: an event beyond its share must take nothing from other groups.
        return not bucket.seconds() and self._total.take() and bucket.take()
