"""Index of the identities that count for each selector. No I/O.

Anyone with permission to write bindings in one namespace can write them with the selector of another namespace's pods.
So the index has two parts, each with its own limit (`limited_groups`): the identities that bindings of one namespace
give to one selector, which only pods of that namespace get, and the identities that serve pods of every namespace, by
selector.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from mic.cluster.binding_groups import BindingGroup
from mic.cluster.limited_groups import LimitedGroups, beyond_limit
from mic.decisions.assignments import Key
from podidentity.resources import AzureIdentityBinding


class Reach(Enum):
    """Pods that an identity serves."""

    NONE = "none"
    """The identity does not exist or cannot be used."""
    NAMESPACE = "namespace"
    CLUSTER = "cluster"


class Concern(NamedTuple):
    """Pods whose assignment of one identity may have changed."""

    selector: str
    namespace: str
    """The namespace of these pods; empty for pods of every namespace."""
    identity: Key


Ignored: TypeAlias = Callable[[AzureIdentityBinding, str], None]
"""Called with a binding that pods do not get, and with the reason, a sentence for its author."""


class SelectorIndex:
    """Binding groups by the selector and the namespace of the pods that they serve. Each method that changes the index
    returns the pods whose assignments may have changed."""

    def __init__(self, *, is_embedded: Callable[[BindingGroup], bool], on_ignored: Ignored) -> None:
        """*is_embedded* returns whether an active assigned identity embeds a binding of the group."""
        self._is_embedded = is_embedded
        self._on_ignored = on_ignored
        self._own: dict[tuple[str, str], LimitedGroups] = {}
        """The identities for pods of one namespace, by namespace and selector."""
        self._shared: dict[str, LimitedGroups] = {}
        """The identities for pods of every namespace, by selector."""
        self._crowded: dict[int, tuple[LimitedGroups, str]] = {}
        """The parts that omit some of their groups, by `id`, with the namespace whose pods they serve."""

    @property
    def crowded(self) -> bool:
        """Whether any identity does not count because of the limit."""
        return bool(self._crowded)

    @property
    def beyond_limit(self) -> int:
        """Number of identities that do not count for a selector because COUNTED_MAX others do."""
        return sum(groups.left_out for groups, _ in self._crowded.values())

    def beyond(self) -> Iterator[tuple[AzureIdentityBinding, str]]:
        """Yield the bindings that do not count because others do, and the reason."""
        for groups, namespace in self._crowded.values():
            for group in groups.ignored():
                for binding in group.members.values():
                    yield binding, beyond_limit(group.selector, namespace)

    def groups(self, namespace: str, selector: str) -> Mapping[Key, BindingGroup]:
        """Return the groups that count for pods of *namespace* whose label has the value *selector*, by identity. A
        live view."""
        own, shared = self._own.get((namespace, selector)), self._shared.get(selector)
        if own is None:
            return shared.counted if shared is not None else _NOTHING
        return {**shared.counted, **own.counted} if shared is not None else own.counted

    def group(self, namespace: str, selector: str, identity: Key) -> BindingGroup | None:
        """Return the group that gives *identity* to these pods; None if it does not count for them."""
        for groups in (self._own.get((namespace, selector)), self._shared.get(selector)):
            if groups is not None and (group := groups.counted.get(identity)) is not None:
                return group
        return None

    def enter(self, group: BindingGroup, reach: Reach) -> list[Concern]:
        """Add *group*, whose identity serves *reach*."""
        if reach is Reach.NONE:
            return []
        namespace, selector = group.identity[0], group.selector
        # Whatever its reach: other namespaces must not push it out for the pods of its own.
        self._own.setdefault((namespace, selector), LimitedGroups())
        if reach is Reach.CLUSTER:
            self._shared.setdefault(selector, LimitedGroups())
        concerns = self._change(group, reach, lambda groups: groups.add(group, self._is_embedded))
        self.report_left_out(group, reach, group.first)
        return concerns

    def leave(self, group: BindingGroup, reach: Reach) -> list[Concern]:
        """Remove *group*, whose identity served *reach*."""
        embedded = self._is_embedded(group)
        concerns = self._change(group, reach, lambda groups: groups.remove(group, embedded=embedded))
        namespace, selector = group.identity[0], group.selector
        if reach is not Reach.NONE and not self._own[namespace, selector]:
            del self._own[namespace, selector]
        if reach is Reach.CLUSTER and not self._shared[selector]:
            del self._shared[selector]
        return concerns

    def embedding_changed(self, group: BindingGroup, reach: Reach, *, embedded: bool) -> list[Concern]:
        """Rank *group* again after the first assigned identity has embedded a binding of it, or the last one no longer
        does."""
        return self._change(group, reach, lambda groups: groups.embedding_changed(group, embedded=embedded))

    def concerned(self, group: BindingGroup, reach: Reach) -> list[Concern]:
        """Return the pods for which *group* counts."""
        return [
            Concern(group.selector, namespace, group.identity)
            for groups, namespace in self._of(group, reach)
            if group.identity in groups.counted
        ]

    def report_left_out(self, group: BindingGroup, reach: Reach, binding: AzureIdentityBinding) -> None:
        """Report *binding*, of *group*, once for each limit because of which pods do not get it."""
        for groups, namespace in self._of(group, reach):
            if group.identity not in groups.counted:
                self._on_ignored(binding, beyond_limit(group.selector, namespace))

    def _change(self, group: BindingGroup, reach: Reach, change: Callable[[LimitedGroups], set[Key]]) -> list[Concern]:
        """Change each part of the index that *group* belongs to, and report the groups that no longer count."""
        concerns: list[Concern] = []
        for groups, namespace in self._of(group, reach):
            changed = change(groups)
            if groups.left_out:
                self._crowded[id(groups)] = (groups, namespace)
            else:
                self._crowded.pop(id(groups), None)
            for key in changed:
                concerns.append(Concern(group.selector, namespace, key))
                if key not in groups.counted and (displaced := groups.group(key)) is not None:
                    self._on_ignored(displaced.first, beyond_limit(group.selector, namespace))
        return concerns

    def _of(self, group: BindingGroup, reach: Reach) -> Iterator[tuple[LimitedGroups, str]]:
        """Yield the parts that *group* belongs to, with the namespace whose pods each serves, empty for all."""
        if reach is not Reach.NONE:
            yield self._own[group.identity[0], group.selector], group.identity[0]
        if reach is Reach.CLUSTER:
            yield self._shared[group.selector], ""


_NOTHING: Final[Mapping[Key, BindingGroup]] = {}
