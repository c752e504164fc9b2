"""A limit on the identities of one pod or label that NMI decides by, and the report on those beyond it.

Every decision looks at each of them, so their number must not be for a tenant to choose. All of them are remembered,
as the watch's store does too: when one goes, the next in order counts.
"""

import logging
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=tuple[str, ...])
V = TypeVar("V")

log = logging.getLogger(__name__)

LINES_PER_MINUTE: Final = 20


class LimitedMap(Generic[Key, V]):
    """Values by key, of which the first *most* count, by the order that each is put with."""

    __slots__ = ("_counted", "_most", "_order", "_values")

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Key, tuple[tuple[object, ...], V]] = {}
        self._order: list[tuple[tuple[object, ...], Key]] = []
        self._counted: tuple[V, ...] | None = None

    def __len__(self) -> int:
        """How many there are, with those beyond the limit."""
        return len(self._values)

    @property
    def beyond(self) -> int:
        """How many do not count."""
        return max(0, len(self._values) - self._most)

    @property
    def counted(self) -> tuple[V, ...]:
        """Those that count, in order; the same tuple until something changes."""
        if self._counted is None:
            self._counted = tuple(self._values[key][1] for _, key in self._order[: self._most])
        return self._counted

    def get(self, key: Key) -> V | None:
        found = self._values.get(key)
        return found[1] if found is not None else None

    def put(self, key: Key, value: V, order: tuple[object, ...]) -> None:
        """Add or replace."""
        before = self._values.get(key)
        if before is None or before[0] != order:
            if before is not None:
                self._unorder(key, before[0])
            insort(self._order, (order, key))
        self._values[key] = (order, value)
        self._counted = None

    def remove(self, key: Key) -> bool:
        """Whether it was there."""
        before = self._values.pop(key, None)
        if before is None:
            return False
        self._unorder(key, before[0])
        self._counted = None
        return True

    def _unorder(self, key: Key, order: tuple[object, ...]) -> None:
        del self._order[bisect_left(self._order, (order, key))]


class OverLimitCount:
    """How many are beyond limits in all, and a log line for each place that begins to have some."""

    def __init__(self, message: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._message = message
        self._clock = clock
        self._places: dict[tuple[str, str], int] = {}
        self._minute = float("-inf")
        self._lines = 0
        self.count = 0

    def note(self, place: tuple[str, str], beyond: int) -> None:
        """There are *beyond* of them at *place* now."""
        before = self._places.pop(place, 0)
        self.count += beyond - before
        if beyond:
            self._places[place] = beyond
            if not before:
                self._log(place)

    def _log(self, place: tuple[str, str]) -> None:
        now = self._clock()
        if now - self._minute >= 60.0:
            self._minute, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_MINUTE:
            log.warning(self._message, extra={"resource": "/".join(place)})
