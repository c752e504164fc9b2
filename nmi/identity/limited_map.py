"""A limit on the identities of one pod or label, and the report on objects beyond it.

Every decision examines each of these identities, so a tenant must not choose their number. All of them are kept, as in
the watch's store: when one is removed, the next in order counts.
"""

import logging
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from podidentity.telemetry.log_limit import LogLimit

Key = TypeVar("Key", bound=tuple[str, ...])
V = TypeVar("V")

log = logging.getLogger(__name__)

LINES_PER_MINUTE: Final = 20


class LimitedMap(Generic[Key, V]):
    """Values by key, of which the first *most* count, in the order given by `put`."""

    __slots__ = ("_counted", "_most", "_order", "_values")

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Key, tuple[tuple[object, ...], V]] = {}
        self._order: list[tuple[tuple[object, ...], Key]] = []
        self._counted: tuple[V, ...] | None = None

    def __len__(self) -> int:
        """Return the number of values, including those beyond the limit."""
        return len(self._values)

    @property
    def beyond(self) -> int:
        """Number of values that do not count."""
        return max(0, len(self._values) - self._most)

    @property
    def counted(self) -> tuple[V, ...]:
        """The values that count, in order; the same tuple until a change."""
        if self._counted is None:
            self._counted = tuple(self._values[key][1] for _, key in self._order[: self._most])
        return self._counted

    def get(self, key: Key) -> V | None:
        present = self._values.get(key)
        return present[1] if present is not None else None

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
        """Return whether *key* was present."""
        before = self._values.pop(key, None)
        if before is None:
            return False
        self._unorder(key, before[0])
        self._counted = None
        return True

    def _unorder(self, key: Key, order: tuple[object, ...]) -> None:
        del self._order[bisect_left(self._order, (order, key))]


class OverLimitCount:
    """The number of values beyond limits in total, and a log line for each group that begins to have some."""

    def __init__(self, message: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._message = message
        self._lines = LogLimit(burst=LINES_PER_MINUTE, per_second=LINES_PER_MINUTE / 60, clock=clock)
        self._beyond: dict[tuple[str, str], int] = {}
        self.count = 0

    def note(self, group: tuple[str, str], beyond: int) -> None:
        """Record that *beyond* values of *group* are beyond the limit."""
        before = self._beyond.pop(group, 0)
        self.count += beyond - before
        if beyond:
            self._beyond[group] = beyond
            # One line when a group passes its limit: a tenant controls how often the number changes.
            if not before and self._lines.allows():
                log.warning(self._message, extra={"resource": "/".join(group)})
