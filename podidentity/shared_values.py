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
        self._values = _Generations(make, most, length, longest)
        self.of: Callable[[K], V] = self._values.__getitem__
        """Return the value for a key. Never change it."""

    def __len__(self) -> int:
        return len(self._values) + len(self._values.older)


class _Generations(dict[K, V]):
    """The newer generation. A lookup of a missing key adds it, so that the others need no function of Python's."""

    def __init__(self, make: Callable[[K], V], most: int, length: Callable[[K], int], longest: int) -> None:
        super().__init__()
        self.older: dict[K, V] = {}
        self._make = make
        self._most = most
        self._length = length
        self._longest = longest

    def __missing__(self, key: K) -> V:
        if self._length(key) > self._longest:
            return self._make(key)
        if len(self) >= self._most:
            # A copy, because lookups are bound to this object.
            self.older = dict(self)
            self.clear()
        older = self.older.get(key)
        made = self[key] = older if older is not None else self._make(key)
        return made
