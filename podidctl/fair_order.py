"""Order in which no tenant's objects hide those of others, for lists that are cut. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import TypeVar

T = TypeVar("T")


def by_turns(items: Iterable[T], group: Callable[[T], object]) -> list[T]:
    """Return the first item of each group, then the second of each, and so on. Otherwise the order stays."""
    groups: defaultdict[object, list[tuple[T]]] = defaultdict(list)
    for each in items:
        groups[group(each)].append((each,))
    return [each[0] for several in zip_longest(*groups.values()) for each in several if each is not None]


def namespace_of(name: str) -> str:
    """Return the namespace of `NAMESPACE/NAME`. Any other name is its own group."""
    return name.partition("/")[0]
