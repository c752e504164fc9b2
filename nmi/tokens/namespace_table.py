"""A bounded table whose entries belong to namespaces: a namespace that fills it removes its own entries only."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_SAME: Final = 0.0
_SPARED_MAX: Final = 64
"""Values that `surplus` spares at most because of uses that the table does not know. It bounds the time of a call."""


class _Entry:
    """The owner, the weight and the other users of a value."""

    __slots__ = ("others", "owner", "weight")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.others: frozenset[str] = frozenset()
        """The other namespaces that have used the value: no more than have pods on this node."""
        self.weight = 0


class NamespaceTable(Generic[K, V]):
    """Values by key with a limit in total. Beyond it, the namespace with the most loses its least recently used one.

    Before it loses a value that other namespaces have used, the one of them with the fewest becomes the owner.
    """

    def __init__(self, most: int, *, last_used: Callable[[V], float] = lambda _value: _SAME) -> None:
        """*most*: the limit of the sum of weights. *last_used*: the time of a value's last use; of equal times, the
        order of `put` and `use` counts.
        """
        self._most = most
        self._last_used = last_used
        self._values: dict[K, V] = {}
        self._entries: dict[K, _Entry] = {}
        self._keys: dict[str, OrderedDict[K, float]] = {}
        """By owner, in the order of their last uses as far as the table knows them: these are the times."""
        self._weights: Counter[str] = Counter()
        """By owner."""
        self.view: Final[Mapping[K, V]] = MappingProxyType(self._values)
        """A live, read-only view. Reading it is no use."""

    def __len__(self) -> int:
        return len(self._values)

    def use(self, key: K, namespace: str) -> V | None:
        """Return the value and note that *namespace* uses it; None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if namespace != entry.owner and namespace not in entry.others:
            entry.others |= {namespace}
        self._append(key, entry)
        return self._values[key]

    def put(self, key: K, value: V, namespace: str, weight: int = 1) -> None:
        """Add for *namespace*, or replace: a new version of a value keeps its owner. The caller then removes `surplus`
        until it is None.
        """
        entry = self._entries.setdefault(key, _Entry(namespace))
        self._values[key] = value
        self._weights[entry.owner] += weight - entry.weight
        entry.weight = weight
        self.use(key, namespace)

    def pop(self, key: K) -> V | None:
        """Remove and return the value; None if there is none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._leave(key, entry)
        return self._values.pop(key)

    def surplus(self) -> K | None:
        """Return the key of the value to be removed; None within the limit.

        A value that was used without the table's knowledge moves to the end, so that each use costs one step at most.
        """
        spared_left = _SPARED_MAX
        while self._weights.total() > self._most:
            owner = max(self._weights, key=lambda namespace: self._weights[namespace])
            key, recorded = next(iter(self._keys[owner].items()))
            entry = self._entries[key]
            fewest = min(entry.others, key=lambda namespace: self._weights[namespace], default=owner)
            # The fast lane uses a value without a call of `use`.
            if spared_left and self._last_used(self._values[key]) > recorded:
                spared_left -= 1
                self._append(key, entry)
            # The new owner stays below the former one, so that the loop ends.
            elif self._weights[fewest] + entry.weight < self._weights[owner]:
                self._leave(key, entry)
                entry.owner, entry.others = fewest, entry.others - {fewest} | {owner}
                self._weights[fewest] += entry.weight
                self._append(key, entry)
            else:
                return key
        return None

    def trim(self) -> None:
        """Remove what is beyond the limit."""
        while (key := self.surplus()) is not None:
            self.pop(key)

    def _append(self, key: K, entry: _Entry) -> None:
        keys = self._keys.setdefault(entry.owner, OrderedDict())
        keys[key] = self._last_used(self._values[key])
        keys.move_to_end(key)

    def _leave(self, key: K, entry: _Entry) -> None:
        del self._keys[entry.owner][key]
        self._weights[entry.owner] -= entry.weight
        if not self._keys[entry.owner]:
            del self._keys[entry.owner], self._weights[entry.owner]
