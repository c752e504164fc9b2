"""Values that many watched objects have, stored once. No I/O."""

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

SHARED_CHARS: Final = 253
"""Characters of a text that is shared: the longest name."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedValues(Generic[K, V]):
    """Values by key, in two generations: when the newer one is full, the older one is forgotten. A forgotten value
    stays valid; it is only not shared with later objects.
    """

    def __init__(
        self, make: Callable[[K], V], most: int, *, length: Callable[[K], int], longest: int = SHARED_CHARS
    ) -> None:
        """Share the values that *make* creates, *most* in each generation.

        *length* returns the characters of a key. A value whose key is longer than *longest* is not shared, so that a
        tenant cannot fill the memory with long keys.
        """
        self._make = make
        self._most = most
        self._length = length
        self._longest = longest
        self._newer: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def of(self, key: K) -> V:
        """Return the value for *key*. Never change it."""
        found = self._newer.get(key)
        if found is not None:
            return found
        if self._length(key) > self._longest:
            return self._make(key)
        if len(self._newer) >= self._most:
            self._older, self._newer = self._newer, {}
        found = self._older.get(key)
        made = self._newer[key] = found if found is not None else self._make(key)
        return made
