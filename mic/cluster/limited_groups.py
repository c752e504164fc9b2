"""Limit of the identities that count for one selector. No I/O.

Anyone with permission to write bindings can write thousands of them. COUNTED_MAX identities of a selector count and the
others are left out. Namespaces share the limit: the first identity of each namespace counts, then the second of each,
and so on. Identities that assigned identities embed count first, so that a pod keeps an identity that it has.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Final

from mic.cluster.binding_groups import BindingGroup
from mic.decisions.assignments import Key

COUNTED_MAX: Final = 64
"""Identities that bindings of one namespace give to pods of that namespace with one label value; and, separately,
identities that bindings of all namespaces together give to pods of every namespace with that value. Clusters in use
have one to five."""


class LimitedGroups:
    """The groups that compete for the pods of one selector, in one namespace or in all.

    Each method that changes them returns the identities that count now and did not before, or the other way round.
    """

    __slots__ = ("_counted", "_members", "_ranked")

    def __init__(self) -> None:
        self._members: dict[Key, BindingGroup] = {}
        self._counted: dict[Key, BindingGroup] | None = None
        """The groups that count; None while all groups count."""
        self._ranked: dict[str, list[tuple[bool, Key]]] = {}
        """The order of the groups, by namespace: embedded identities first. Empty while all groups count."""

    def __bool__(self) -> bool:
        return bool(self._members)

    @property
    def counted(self) -> dict[Key, BindingGroup]:
        """The groups that count, by identity."""
        return self._members if self._counted is None else self._counted

    @property
    def left_out(self) -> int:
        """Number of groups that do not count."""
        return len(self._members) - len(self.counted)

    def ignored(self) -> Iterator[BindingGroup]:
        """Return the groups that do not count."""
        counted = self.counted
        return (group for key, group in self._members.items() if key not in counted)

    def group(self, identity: Key) -> BindingGroup | None:
        """Return the identity's group, whether it counts or not."""
        return self._members.get(identity)

    def add(self, group: BindingGroup, is_embedded: Callable[[BindingGroup], bool]) -> set[Key]:
        """Add *group*. *is_embedded* returns whether an assigned identity embeds a binding of a group."""
        key = group.identity
        before = self._counted
        if before is None and len(self._members) < COUNTED_MAX:
            self._members[key] = group
            return {key}
        counted = (before if before is not None else self._members).keys() - {key}
        self._members[key] = group
        if before is None:
            for member in self._members.values():
                self._rank(member, embedded=is_embedded(member))
        else:
            self._rank(group, embedded=is_embedded(group))
        self._counted = self._choose()
        return counted ^ self._counted.keys()

    def remove(self, group: BindingGroup, *, embedded: bool) -> set[Key]:
        """Remove *group*, of which an assigned identity embeds a binding, or none does."""
        key = group.identity
        del self._members[key]
        if self._counted is None:
            return {key}
        self._unrank(group, embedded=embedded)
        return self._choose_again()

    def embedding_changed(self, group: BindingGroup, *, embedded: bool) -> set[Key]:
        """Rank *group* again after the first assigned identity has embedded a binding of it, or the last one no longer
        does."""
        if self._counted is None:
            return set()
        self._unrank(group, embedded=not embedded)
        self._rank(group, embedded=embedded)
        return self._choose_again()

    def _choose_again(self) -> set[Key]:
        before = self.counted.keys()
        if len(self._members) <= COUNTED_MAX:
            self._ranked.clear()
            self._counted = None
        else:
            self._counted = self._choose()
        return before ^ self.counted.keys()

    def _rank(self, group: BindingGroup, *, embedded: bool) -> None:
        insort(self._ranked.setdefault(group.identity[0], []), (not embedded, group.identity))

    def _unrank(self, group: BindingGroup, *, embedded: bool) -> None:
        ranked = self._ranked[group.identity[0]]
        del ranked[bisect_left(ranked, (not embedded, group.identity))]
        if not ranked:
            del self._ranked[group.identity[0]]

    def _choose(self) -> dict[Key, BindingGroup]:
        """Return the first of each namespace, then the second of each, and so on, until there are COUNTED_MAX."""
        chosen: dict[Key, BindingGroup] = {}
        namespaces, position = list(self._ranked.values()), 0
        while namespaces and len(chosen) < COUNTED_MAX:
            row, left = [ranked[position] for ranked in namespaces], COUNTED_MAX - len(chosen)
            # The smallest are embedded identities, if there are any: their tuples begin with False.
            for _, key in row if len(row) <= left else nsmallest(left, row):
                chosen[key] = self._members[key]
            position += 1
            namespaces = [ranked for ranked in namespaces if len(ranked) > position]
        return chosen


def beyond_limit(selector: str, namespace: str) -> str:
    """Return why a binding does not count for the pods of *namespace*, or of other namespaces if that is empty."""
    bindings, pods = ("of this namespace", "of it") if namespace else ("of all namespaces", "of other namespaces")
    return (
        f"bindings {bindings} give more than {COUNTED_MAX} identities to the selector {selector!r}, so pods {pods} do "
        "not get this one; delete bindings, or use another selector"
    )
