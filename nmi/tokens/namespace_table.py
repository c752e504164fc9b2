"""A bounded table whose entries belong to namespaces: a namespace that fills it removes its own entries only."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_SAME: Final = 0.0


class NamespaceTable(Generic[K, V]):
    """Values by key with a limit in total. Beyond it, the namespace with the most loses its least recently used one.

    A value that several namespaces use belongs to the one with the fewest, so that it does not go with the others'.
    """

    def __init__(self, most: int, *, last_used: Callable[[V], float] = lambda _value: _SAME) -> None:
        """*most*: the limit of the sum of weights. *last_used*: the time of a value's last use; of equal times, the
        order of `put` and `use` counts.
        """
        self._most = most
        self._last_used = last_used
        self._values: dict[K, V] = {}
        self._entries: dict[K, tuple[str, int]] = {}
        """The namespace and the weight of each value."""
        self._keys: dict[str, OrderedDict[K, float]] = {}
        """By namespace, in the order of their last uses as far as the table knows them: these are the times."""
        self._weights: Counter[str] = Counter()
        self.view: Final[Mapping[K, V]] = MappingProxyType(self._values)
        """A live, read-only view. Reading it is no use."""

    def __len__(self) -> int:
        return len(self._values)

    def use(self, key: K, namespace: str) -> V | None:
        """Return the value and note that *namespace* uses it; None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        owner, weight = entry
        if namespace != owner and self._weights[namespace] + weight < self._weights[owner]:
            self.put(key, self._values[key], namespace, weight)
        else:
            self._keys[owner].move_to_end(key)
            self._keys[owner][key] = self._last_used(self._values[key])
        return self._values[key]

    def put(self, key: K, value: V, namespace: str, weight: int = 1) -> None:
        """Add or replace. The caller then removes `surplus` until it is None."""
        self.pop(key)
        self._values[key] = value
        self._entries[key] = namespace, weight
        self._keys.setdefault(namespace, OrderedDict())[key] = self._last_used(value)
        self._weights[namespace] += weight

    def pop(self, key: K) -> V | None:
        """Remove and return the value; None if there is none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        namespace, weight = entry
        del self._keys[namespace][key]
        self._weights[namespace] -= weight
        if not self._keys[namespace]:
            del self._keys[namespace], self._weights[namespace]
        return self._values.pop(key)

    def surplus(self) -> K | None:
        """Return the key of the value to be removed; None within the limit.

        A value that was used without the table's knowledge moves to the end, so that each use costs one step at most.
        """
        if self._weights.total() <= self._most:
            return None
        keys = self._keys[max(self._weights, key=lambda namespace: self._weights[namespace])]
        while True:
            key, known = next(iter(keys.items()))
            keys[key] = self._last_used(self._values[key])
            if keys[key] <= known:
                return key
            keys.move_to_end(key)

    def trim(self) -> None:
        """Remove what is beyond the limit."""
        while (key := self.surplus()) is not None:
            self.pop(key)
