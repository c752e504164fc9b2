"""Index of AzureIdentities and the AzureIdentityBindings that name them: which identities a pod wants. No I/O.

Anyone with permission to write bindings in one namespace can write thousands of them with the selector of another
namespace's pods. So the index has two parts: the identities that bindings of one namespace give to one selector, which
only pods of that namespace get, and the identities that serve pods of every namespace, by selector. A binding is in
neither part while its identity does not exist or cannot be used, so it costs no pod anything. Each part counts
COUNTED_MAX identities of a selector and leaves out the others.

All bindings that name one identity with one selector are one `Group`: a pod needs the identity once.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from enum import Enum
from heapq import nsmallest
from typing import Final, NamedTuple

from mic.decisions.assignments import (
    AssignmentKey,
    DesiredAssignment,
    ExistingAssignment,
    Key,
    may_have_identities,
    misconfigured,
)
from podidentity.azure.resource_ids import UserAssignedIdentity, parse_user_assigned
from podidentity.object_limits import oversized
from podidentity.resources import BEHAVIOR_ANNOTATION, AzureIdentity, AzureIdentityBinding, IdentityType, Pod

COUNTED_MAX: Final = 64
"""Identities that bindings of one namespace give to pods of that namespace with one label value; and, separately,
identities that bindings of all namespaces together give to pods of every namespace with that value. Clusters in use
have one to five."""


class Reach(Enum):
    """Pods that an identity serves."""

    NONE = "none"
    """The identity does not exist or cannot be used."""
    NAMESPACE = "namespace"
    CLUSTER = "cluster"


class Concern(NamedTuple):
    """Pods whose claim on one identity may have changed."""

    selector: str
    namespace: str
    """Empty for pods of every namespace."""
    identity: Key


Ignored = Callable[[AzureIdentityBinding, str], None]
"""Called with a binding that pods do not get, and with the reason, a sentence for its author."""


class Group:
    """The bindings that name one identity and have one selector, by name. Never empty while it is in the index."""

    __slots__ = ("identity", "members", "names", "selector")

    def __init__(self, identity: Key, selector: str) -> None:
        self.identity = identity
        self.selector = selector
        self.members: dict[str, AzureIdentityBinding] = {}
        self.names: list[str] = []

    def put(self, binding: AzureIdentityBinding) -> None:
        name = binding.metadata.name
        if name not in self.members:
            insort(self.names, name)
        self.members[name] = binding

    def remove(self, name: str) -> None:
        if self.members.pop(name, None) is not None:
            del self.names[bisect_left(self.names, name)]

    def through(self, embedded: Collection[Key]) -> AzureIdentityBinding:
        """The binding that gives the identity to a pod: one of *embedded*, else the first by name."""
        known = [name for namespace, name in embedded if namespace == self.identity[0] and name in self.members]
        return self.members[min(known) if known else self.names[0]]


class _Bucket:
    """The groups that compete for the pods of one selector, in one namespace or in all."""

    __slots__ = ("_kept", "_members", "_ranked")

    def __init__(self) -> None:
        self._members: dict[Key, Group] = {}
        self._kept: dict[Key, Group] | None = None
        """None while all of them count."""
        self._ranked: dict[str, list[tuple[bool, Key]]] = {}
        """By namespace, in order: identities that assigned identities embed first. Empty while all of them count."""

    def __bool__(self) -> bool:
        return bool(self._members)

    @property
    def counted(self) -> dict[Key, Group]:
        return self._members if self._kept is None else self._kept

    @property
    def left_out(self) -> int:
        return len(self._members) - len(self.counted)

    def ignored(self) -> Iterator[Group]:
        counted = self.counted
        return (group for key, group in self._members.items() if key not in counted)

    def group(self, identity: Key) -> Group | None:
        return self._members.get(identity)

    def add(self, group: Group, embedded: Callable[[Group], bool]) -> set[Key]:
        """The identities that count now and did not before, or the other way round."""
        key = group.identity
        before = self._kept
        if before is None and len(self._members) < COUNTED_MAX:
            self._members[key] = group
            return {key}
        counted = (before if before is not None else self._members).keys() - {key}
        self._members[key] = group
        if before is None:
            for each in self._members.values():
                self._rank(each, embedded=embedded(each))
        else:
            self._rank(group, embedded=embedded(group))
        self._kept = self._choose()
        return counted ^ self._kept.keys()

    def remove(self, group: Group, *, embedded: bool) -> set[Key]:
        """As `add`."""
        key = group.identity
        del self._members[key]
        if self._kept is None:
            return {key}
        self._unrank(group, embedded=embedded)
        return self._chosen_again()

    def embedding_changed(self, group: Group, *, embedded: bool) -> set[Key]:
        """As `add`, after the first assigned identity has embedded the group, or the last one no longer does."""
        if self._kept is None:
            return set()
        self._unrank(group, embedded=not embedded)
        self._rank(group, embedded=embedded)
        return self._chosen_again()

    def _chosen_again(self) -> set[Key]:
        before = self.counted.keys()
        if len(self._members) <= COUNTED_MAX:
            self._ranked.clear()
            self._kept = None
        else:
            self._kept = self._choose()
        return before ^ self.counted.keys()

    def _rank(self, group: Group, *, embedded: bool) -> None:
        insort(self._ranked.setdefault(group.identity[0], []), (not embedded, group.identity))

    def _unrank(self, group: Group, *, embedded: bool) -> None:
        ranked = self._ranked[group.identity[0]]
        del ranked[bisect_left(ranked, (not embedded, group.identity))]
        if not ranked:
            del self._ranked[group.identity[0]]

    def _choose(self) -> dict[Key, Group]:
        """The first of each namespace, then the second of each, and so on, until there are COUNTED_MAX."""
        kept: dict[Key, Group] = {}
        namespaces, position = list(self._ranked.values()), 0
        while namespaces and len(kept) < COUNTED_MAX:
            row, left = [each[position] for each in namespaces], COUNTED_MAX - len(kept)
            for _, key in row if len(row) <= left else nsmallest(left, row):
                kept[key] = self._members[key]
            position += 1
            namespaces = [each for each in namespaces if len(each) > position]
        return kept


class _NamedIdentity:
    """An identity by its name, as long as it exists or a binding names it."""

    __slots__ = ("groups", "identity", "identity_id", "reach")

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        """By selector."""
        self.identity: AzureIdentity | None = None
        self.identity_id: UserAssignedIdentity | None = None
        self.reach = Reach.NONE


class BindingIndex:
    """The index. Each method that changes it returns the claims that the change concerns; the caller asks `want` for
    each of those again. The cost of a change does not depend on how many bindings other namespaces have."""

    def __init__(self, *, force_namespaced: bool = False, on_ignored: Ignored = lambda _binding, _why: None) -> None:
        self._force_namespaced = force_namespaced
        self._on_ignored = on_ignored
        self._named: dict[Key, _NamedIdentity] = {}
        self._bindings: dict[Key, AzureIdentityBinding] = {}
        self._own: dict[tuple[str, str], _Bucket] = {}
        """By namespace and selector."""
        self._shared: dict[str, _Bucket] = {}
        """By selector."""
        self._embedding: dict[tuple[Key, str], dict[str, int]] = {}
        """Names of the bindings of a group (identity and selector) that living assigned identities embed, and how many
        of those each one has."""
        self._crowded: dict[int, tuple[_Bucket, str]] = {}
        """Buckets that leave out some of their groups, by `id`, with the namespace whose pods they serve."""

    @property
    def identities(self) -> int:
        """How many AzureIdentities exist."""
        return sum(named.identity is not None for named in self._named.values())

    @property
    def beyond_limit(self) -> int:
        """How many identities do not count for a selector because COUNTED_MAX others do."""
        return sum(bucket.left_out for bucket, _ in self._crowded.values())

    def identity(self, key: Key) -> AzureIdentity | None:
        """The identity, if it exists."""
        named = self._named.get(key)
        return named.identity if named is not None else None

    def beyond(self) -> Iterator[tuple[AzureIdentityBinding, str]]:
        """The bindings that do not count because others do, and why."""
        for bucket, namespace in self._crowded.values():
            for group in bucket.ignored():
                for binding in group.members.values():
                    yield binding, beyond_limit(group.selector, namespace)

    # Desired assignments

    def offered(self, namespace: str, selector: str) -> Iterable[Key]:
        """The identities that a pod of *namespace* whose label has the value *selector* may claim."""
        own, shared = self._own.get((namespace, selector)), self._shared.get(selector)
        if shared is None or own is None:
            return tuple((own or shared or _NOTHING).counted)
        return own.counted.keys() | shared.counted.keys()

    def desired(self, pod: Pod, identity: Key, embedded: Collection[Key]) -> DesiredAssignment | None:
        """Return the desired assignment of *pod*, which has a label, for one identity. *embedded*: bindings that the
        assignment's objects embed."""
        namespace, selector = pod.metadata.namespace, pod.binding_label
        for bucket in (self._own.get((namespace, selector)), self._shared.get(selector)):
            if bucket is not None and (group := bucket.counted.get(identity)) is not None:
                named = self._named[identity]
                if named.identity is None:
                    return None
                return DesiredAssignment(
                    pod,
                    group.through(embedded),
                    named.identity,
                    named.identity_id,
                    named.reach is Reach.NAMESPACE,
                )
        return None

    def all_desired(self, pod: Pod, embedded: Collection[Key] = ()) -> dict[AssignmentKey, DesiredAssignment]:
        """Return all desired assignments of *pod*: none unless it may have identities (`may_have_identities`)."""
        if not may_have_identities(pod):
            return {}
        namespace, selector = pod.metadata.namespace, pod.binding_label
        every = (self.desired(pod, identity, embedded) for identity in sorted(self.offered(namespace, selector)))
        return {desired.assignment_key: desired for desired in every if desired is not None}

    def current(self, desired: DesiredAssignment) -> DesiredAssignment:
        """*want* with binding and identity as they are now. Versions of them that differ in nothing that MIC compares
        are no concern of any claim."""
        binding = self._bindings.get(desired.binding.key, desired.binding)
        named = self._named.get(desired.identity.key)
        identity = (named.identity if named else None) or desired.identity
        if binding is desired.binding and identity is desired.identity:
            return desired
        return replace(desired, binding=binding, identity=identity)

    # Changes

    def put_binding(self, new: AzureIdentityBinding) -> list[Concern]:
        """The binding exists and is like *new*."""
        if why := oversized(new):
            self._on_ignored(new, why)
            return self.remove_binding(new)
        old = self._bindings.get(new.key)
        if old is not None and _group_key(old) != _group_key(new):
            concerns = self.remove_binding(old)
        elif old is not None and (old.metadata.uid, old.spec) == (new.metadata.uid, new.spec):
            self._bindings[new.key] = new
            self._group(new).put(new)
            return []
        else:
            concerns = []
        self._bindings[new.key] = new
        identity, selector = _group_key(new)
        named = self._named.setdefault(identity, _NamedIdentity())
        group = named.groups.get(selector)
        if group is not None:
            group.put(new)
            self._report_left_out(named, group, new)
            return concerns + self._chosen(named, group, new.metadata.name)
        group = named.groups[selector] = Group(identity, selector)
        group.put(new)
        return concerns + self._enter(named, group)

    def remove_binding(self, old: AzureIdentityBinding) -> list[Concern]:
        """The binding does not exist any more."""
        known = self._bindings.pop(old.key, None)
        if known is None:
            return []
        identity, selector = _group_key(known)
        named = self._named[identity]
        group = named.groups[selector]
        if len(group.members) == 1:
            concerns = self._leave(named, group)
            del named.groups[selector]
            self._tidy(identity, named)
            return concerns
        concerns = self._chosen(named, group, known.metadata.name)
        group.remove(known.metadata.name)
        return concerns

    def put_identity(self, new: AzureIdentity) -> list[Concern]:
        """The identity exists and is like *new*."""
        named = self._named.setdefault(new.key, _NamedIdentity())
        old, named.identity = named.identity, new
        reach = self._reach(new)
        if old is not None and reach is named.reach and _substance(old) == _substance(new):
            return []
        named.identity_id = parse_user_assigned(new.spec.resource_id) if _on_hosts(new) else None
        return self._moved(new.key, named, reach)

    def remove_identity(self, key: Key) -> list[Concern]:
        """The identity does not exist any more."""
        named = self._named.get(key)
        if named is None or named.identity is None:
            return []
        concerns = self._moved(key, named, Reach.NONE)
        named.identity, named.identity_id = None, None
        self._tidy(key, named)
        return concerns

    def embeds(self, existing: ExistingAssignment, by: int) -> list[Concern]:
        """A living assigned identity embeds a binding (*by* 1), or does so no longer (-1)."""
        spec = existing.object.spec
        identity, binding = spec.azure_identity_ref.key, spec.azure_binding_ref
        group_key = (identity, binding.spec.selector)
        names = self._embedding.setdefault(group_key, {})
        before = bool(names)
        count = names.get(binding.metadata.name, 0) + by
        if count > 0:
            names[binding.metadata.name] = count
        else:
            names.pop(binding.metadata.name, None)
        if not names:
            del self._embedding[group_key]
        named = self._named.get(identity)
        group = named.groups.get(binding.spec.selector) if named is not None else None
        if named is None or group is None or before == bool(names) or not self._crowded:
            return []
        return self._changed(named.reach, group, lambda bucket: bucket.embedding_changed(group, embedded=bool(names)))

    # Parts

    def _reach(self, identity: AzureIdentity) -> Reach:
        if misconfigured(identity):
            return Reach.NONE
        return Reach.NAMESPACE if self._force_namespaced or identity.namespaced else Reach.CLUSTER

    def _group(self, binding: AzureIdentityBinding) -> Group:
        identity, selector = _group_key(binding)
        return self._named[identity].groups[selector]

    def _tidy(self, key: Key, named: _NamedIdentity) -> None:
        if named.identity is None and not named.groups:
            del self._named[key]

    def _moved(self, key: Key, named: _NamedIdentity, reach: Reach) -> list[Concern]:
        """Give the identity another *reach*, or the same one where its content has changed."""
        concerns: dict[Concern, None] = {}
        before = named.reach
        for group in named.groups.values():
            if before is not reach:
                concerns |= dict.fromkeys(self._leave(named, group))
        named.reach = reach
        for group in named.groups.values():
            if before is not reach:
                concerns |= dict.fromkeys(self._enter(named, group))
            elif reach is not Reach.NONE:
                concerns |= dict.fromkeys(self._concerned(named, group, key))
        return list(concerns)

    def _chosen(self, named: _NamedIdentity, group: Group, name: str) -> list[Concern]:
        """The claims that the binding *name* of the group decides: none if pods have the identity through others."""
        if name != group.names[0] and name not in self._embedding.get((group.identity, group.selector), ()):
            return []
        return self._concerned(named, group, group.identity)

    def _concerned(self, named: _NamedIdentity, group: Group, identity: Key) -> list[Concern]:
        return [
            Concern(group.selector, namespace, identity)
            for bucket, namespace in self._buckets(named.reach, group)
            if identity in bucket.counted
        ]

    def _enter(self, named: _NamedIdentity, group: Group) -> list[Concern]:
        if named.reach is Reach.NONE:
            return []
        namespace, selector = group.identity[0], group.selector
        self._own.setdefault((namespace, selector), _Bucket())
        if named.reach is Reach.CLUSTER:
            self._shared.setdefault(selector, _Bucket())
        concerns = self._changed(named.reach, group, lambda bucket: bucket.add(group, self._is_embedded))
        self._report_left_out(named, group, group.members[group.names[0]])
        return concerns

    def _leave(self, named: _NamedIdentity, group: Group) -> list[Concern]:
        embedded = self._is_embedded(group)
        concerns = self._changed(named.reach, group, lambda bucket: bucket.remove(group, embedded=embedded))
        namespace, selector = group.identity[0], group.selector
        if named.reach is not Reach.NONE and not self._own[namespace, selector]:
            del self._own[namespace, selector]
        if named.reach is Reach.CLUSTER and not self._shared[selector]:
            del self._shared[selector]
        return concerns

    def _changed(self, reach: Reach, group: Group, change: Callable[[_Bucket], set[Key]]) -> list[Concern]:
        """Change each bucket that the group belongs to, and report what other groups lose by that."""
        concerns: list[Concern] = []
        for bucket, namespace in self._buckets(reach, group):
            changed = change(bucket)
            if bucket.left_out:
                self._crowded[id(bucket)] = (bucket, namespace)
            else:
                self._crowded.pop(id(bucket), None)
            for key in changed:
                concerns.append(Concern(group.selector, namespace, key))
                if key not in bucket.counted and (fallen := bucket.group(key)) is not None:
                    self._on_ignored(fallen.members[fallen.names[0]], beyond_limit(group.selector, namespace))
        return concerns

    def _buckets(self, reach: Reach, group: Group) -> Iterator[tuple[_Bucket, str]]:
        """Each with the namespace whose pods it serves, empty for all."""
        if reach is not Reach.NONE:
            yield self._own[group.identity[0], group.selector], group.identity[0]
        if reach is Reach.CLUSTER:
            yield self._shared[group.selector], ""

    def _report_left_out(self, named: _NamedIdentity, group: Group, binding: AzureIdentityBinding) -> None:
        for bucket, namespace in self._buckets(named.reach, group):
            if group.identity not in bucket.counted:
                self._on_ignored(binding, beyond_limit(group.selector, namespace))

    def _is_embedded(self, group: Group) -> bool:
        return (group.identity, group.selector) in self._embedding


_NOTHING: Final = _Bucket()


def indexed(
    identities: Iterable[AzureIdentity],
    bindings: Iterable[AzureIdentityBinding],
    assigned: Iterable[ExistingAssignment] = (),
    *,
    force_namespaced: bool,
) -> BindingIndex:
    """The index of one read of the cluster; *assigned*: the living assigned identities."""
    index = BindingIndex(force_namespaced=force_namespaced)
    for identity in identities:
        index.put_identity(identity)
    for existing in assigned:
        index.embeds(existing, 1)
    for binding in bindings:
        index.put_binding(binding)
    return index


def _group_key(binding: AzureIdentityBinding) -> tuple[Key, str]:
    return (binding.metadata.namespace, binding.spec.azure_identity), binding.spec.selector


def _on_hosts(identity: AzureIdentity) -> bool:
    return identity.spec.type == IdentityType.USER_ASSIGNED


def beyond_limit(selector: str, namespace: str) -> str:
    """Why a binding is not counted for the pods of *namespace*, or of other namespaces if that is empty."""
    bindings, pods = ("of this namespace", "of it") if namespace else ("of all namespaces", "of other namespaces")
    return (
        f"bindings {bindings} give more than {COUNTED_MAX} identities to the selector {selector!r}, so pods {pods} do "
        "not get this one; delete bindings, or use another selector"
    )


def _substance(identity: AzureIdentity) -> tuple[object, ...]:
    """Return the parts of an identity that affect assignments."""
    return identity.metadata.uid, identity.spec, identity.metadata.annotation(BEHAVIOR_ANNOTATION)
