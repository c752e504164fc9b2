"""Index of AzureIdentities and the AzureIdentityBindings that name them: which identities a pod needs. No I/O.

`binding_groups` groups the bindings of one identity and selector, and `selectors` finds the groups that count for a
pod's label. A binding is in no part of that index while its identity does not exist or cannot be used, so it costs no
pod anything.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from mic.cluster.binding_groups import BindingGroup, group_key
from mic.cluster.selectors import Concern, Ignored, Reach, SelectorIndex
from mic.decisions.assignments import (
    AssignmentKey,
    DesiredAssignment,
    ExistingAssignment,
    Key,
    may_have_identities,
    misconfigured,
    user_assigned_id,
)
from podidentity.azure.resource_ids import UserAssignedIdentity
from podidentity.object_limits import oversized
from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    EXCHANGE_ANNOTATION,
    AzureIdentity,
    AzureIdentityBinding,
    ScheduledPod,
)

_NONE_EMBEDDED: Final[Mapping[AssignmentKey, Collection[Key]]] = {}


class _NamedIdentity:
    """An identity by its name, as long as it exists or a binding names it."""

    __slots__ = ("groups", "identity", "identity_id", "reach")

    def __init__(self) -> None:
        self.groups: dict[str, BindingGroup] = {}
        """The binding groups of the identity, by selector."""
        self.identity: AzureIdentity | None = None
        self.identity_id: UserAssignedIdentity | None = None
        self.reach = Reach.NONE


class BindingIndex:
    """The index. Each method that changes it returns the pods and identities that the change concerns; the caller calls
    `desired` for each of those again. The cost of a change does not depend on the number of other namespaces'
    bindings."""

    def __init__(self, *, force_namespaced: bool = False, on_ignored: Ignored = lambda _binding, _reason: None) -> None:
        self._force_namespaced = force_namespaced
        self._on_ignored = on_ignored
        self._named: dict[Key, _NamedIdentity] = {}
        self._bindings: dict[Key, AzureIdentityBinding] = {}
        self._selectors = SelectorIndex(is_embedded=self._is_embedded, on_ignored=on_ignored)
        self._embedding: dict[tuple[Key, str], dict[str, int]] = {}
        """Names of the bindings of a group (identity and selector) that active assigned identities embed, with the
        number of those that embed each one."""

    @property
    def identities(self) -> int:
        """Number of AzureIdentities that exist."""
        return sum(named.identity is not None for named in self._named.values())

    @property
    def beyond_limit(self) -> int:
        """Number of identities that do not count for a selector because COUNTED_MAX others do."""
        return self._selectors.beyond_limit

    def identity(self, key: Key) -> AzureIdentity | None:
        """Return the identity; None if it does not exist."""
        named = self._named.get(key)
        return named.identity if named is not None else None

    def beyond(self) -> Iterator[tuple[AzureIdentityBinding, str]]:
        """Return the bindings that do not count because others do, and the reason."""
        return self._selectors.beyond()

    # Desired assignments

    def groups(self, namespace: str, selector: str) -> Mapping[Key, BindingGroup]:
        """Return the groups that count for pods of *namespace* whose label has the value *selector*, by identity. A
        live view."""
        return self._selectors.groups(namespace, selector)

    def group(self, pod: ScheduledPod, identity: Key) -> BindingGroup | None:
        """Return the group that gives the identity to *pod*, which has a label; None if there is none."""
        return self._selectors.group(pod.metadata.namespace, pod.binding_label, identity)

    def desired(self, pod: ScheduledPod, group: BindingGroup, embedded: Collection[Key]) -> DesiredAssignment | None:
        """Return the desired assignment of *pod* for the identity of *group*, which counts for it. *embedded*: bindings
        that the assignment's objects embed."""
        named = self._named[group.identity]
        if named.identity is None:
            return None
        return DesiredAssignment(
            pod, group.through(embedded), named.identity, named.identity_id, named.reach is Reach.NAMESPACE
        )

    def all_desired(
        self, pod: ScheduledPod, embedded: Mapping[AssignmentKey, Collection[Key]] = _NONE_EMBEDDED
    ) -> dict[AssignmentKey, DesiredAssignment]:
        """Return all desired assignments of *pod*: none unless it may have identities (`may_have_identities`).
        *embedded*: bindings that the objects of each assignment embed."""
        if not may_have_identities(pod):
            return {}
        groups = self.groups(pod.metadata.namespace, pod.binding_label)
        keys = {identity: AssignmentKey(*pod.key, *identity) for identity in sorted(groups)}
        every = (self.desired(pod, groups[identity], embedded.get(key, ())) for identity, key in keys.items())
        return {desired.assignment_key: desired for desired in every if desired is not None}

    def current(self, desired: DesiredAssignment) -> DesiredAssignment:
        """Return *desired* with the current versions of its binding and its identity. A version that differs in nothing
        that MIC compares concerns no pod."""
        binding = self._bindings.get(desired.binding.key, desired.binding)
        named = self._named.get(desired.identity.key)
        identity = (named.identity if named else None) or desired.identity
        if binding is desired.binding and identity is desired.identity:
            return desired
        return msgspec.structs.replace(desired, binding=binding, identity=identity)

    # Changes

    def put_binding(self, new: AzureIdentityBinding) -> list[Concern]:
        """Add the binding, or replace its earlier version."""
        if reason := oversized(new):
            self._on_ignored(new, reason)
            # Over a limit it counts as absent, also if an earlier version was within the limits.
            return self.remove_binding(new)
        old = self._bindings.get(new.key)
        if old is not None and group_key(old) != group_key(new):
            concerns = self.remove_binding(old)
        # The other parts decide nothing, so no pod is compared again.
        elif old is not None and (old.metadata.uid, old.spec) == (new.metadata.uid, new.spec):
            self._bindings[new.key] = new
            self._group(new).put(new)
            return []
        else:
            concerns = []
        self._bindings[new.key] = new
        identity, selector = group_key(new)
        named = self._named.setdefault(identity, _NamedIdentity())
        group = named.groups.get(selector)
        if group is not None:
            group.put(new)
            self._selectors.report_left_out(group, named.reach, new)
            return concerns + self._concerned(named, group, new.metadata.name)
        group = named.groups[selector] = BindingGroup(identity, selector)
        group.put(new)
        return concerns + self._selectors.enter(group, named.reach)

    def remove_binding(self, old: AzureIdentityBinding) -> list[Concern]:
        """Remove the binding, if it is in the index."""
        stored = self._bindings.pop(old.key, None)
        if stored is None:
            return []
        identity, selector = group_key(stored)
        named = self._named[identity]
        group = named.groups[selector]
        if len(group.members) == 1:
            concerns = self._selectors.leave(group, named.reach)
            del named.groups[selector]
            self._tidy(identity, named)
            return concerns
        # Before the removal, while the group still has the name.
        concerns = self._concerned(named, group, stored.metadata.name)
        group.remove(stored.metadata.name)
        return concerns

    def put_identity(self, new: AzureIdentity) -> list[Concern]:
        """Add the identity, or replace its earlier version."""
        named = self._named.setdefault(new.key, _NamedIdentity())
        old, named.identity = named.identity, new
        reach = self._reach(new)
        if old is not None and reach is named.reach and _compared_parts(old) == _compared_parts(new):
            return []
        named.identity_id = user_assigned_id(new)
        return self._update_reach(named, reach)

    def remove_identity(self, key: Key) -> list[Concern]:
        """Remove the identity, if it is in the index."""
        named = self._named.get(key)
        if named is None or named.identity is None:
            return []
        concerns = self._update_reach(named, Reach.NONE)
        named.identity, named.identity_id = None, None
        self._tidy(key, named)
        return concerns

    def embeds(self, existing: ExistingAssignment, by: int) -> list[Concern]:
        """Record that an active assigned identity embeds a binding (*by* 1), or no longer does (-1)."""
        spec = existing.object.spec
        identity, binding = spec.azure_identity_ref.key, spec.azure_binding_ref
        selector, name = binding.spec.selector, binding.metadata.name
        key = (identity, selector)
        names = self._embedding.get(key)
        if names is None:
            names = self._embedding[key] = {}
        before = bool(names)
        count = names.get(name, 0) + by
        if count > 0:
            names[name] = count
        else:
            names.pop(name, None)
        embedded = bool(names)
        if not embedded:
            del self._embedding[key]
        # It only decides which groups count at the limit of a selector.
        if before == embedded or not self._selectors.crowded:
            return []
        named = self._named.get(identity)
        group = named.groups.get(selector) if named is not None else None
        if named is None or group is None:
            return []
        return self._selectors.embedding_changed(group, named.reach, embedded=embedded)

    # Parts

    def _reach(self, identity: AzureIdentity) -> Reach:
        if misconfigured(identity):
            return Reach.NONE
        return Reach.NAMESPACE if self._force_namespaced or identity.namespaced else Reach.CLUSTER

    def _group(self, binding: AzureIdentityBinding) -> BindingGroup:
        identity, selector = group_key(binding)
        return self._named[identity].groups[selector]

    def _tidy(self, key: Key, named: _NamedIdentity) -> None:
        if named.identity is None and not named.groups:
            del self._named[key]

    def _update_reach(self, named: _NamedIdentity, reach: Reach) -> list[Concern]:
        """Give the identity another *reach*, or the same one if only its content has changed."""
        concerns: dict[Concern, None] = {}
        before = named.reach
        for group in named.groups.values():
            if before is not reach:
                concerns |= dict.fromkeys(self._selectors.leave(group, before))
        named.reach = reach
        for group in named.groups.values():
            if before is not reach:
                concerns |= dict.fromkeys(self._selectors.enter(group, reach))
            elif reach is not Reach.NONE:
                concerns |= dict.fromkeys(self._selectors.concerned(group, reach))
        return list(concerns)

    def _concerned(self, named: _NamedIdentity, group: BindingGroup, name: str) -> list[Concern]:
        """Return the pods that have the identity through the binding *name* of the group: none if they have it through
        others."""
        if name != group.names[0] and name not in self._embedding.get((group.identity, group.selector), ()):
            return []
        return self._selectors.concerned(group, named.reach)

    def _is_embedded(self, group: BindingGroup) -> bool:
        return (group.identity, group.selector) in self._embedding


def indexed(
    identities: Iterable[AzureIdentity],
    bindings: Iterable[AzureIdentityBinding],
    assigned: Iterable[ExistingAssignment] = (),
    *,
    force_namespaced: bool,
) -> BindingIndex:
    """Return the index of one read of the cluster; *assigned*: the active assigned identities."""
    index = BindingIndex(force_namespaced=force_namespaced)
    for identity in identities:
        index.put_identity(identity)
    # Before the bindings, because embedded ones count first at the limit.
    for existing in assigned:
        index.embeds(existing, 1)
    for binding in bindings:
        index.put_binding(binding)
    return index


def embedded_bindings(assigned: Iterable[ExistingAssignment]) -> Mapping[AssignmentKey, list[Key]]:
    """Return the bindings that the objects of each assignment embed; *assigned*: the active assigned identities."""
    embedded: defaultdict[AssignmentKey, list[Key]] = defaultdict(list)
    for existing in assigned:
        embedded[existing.assignment_key].append(existing.object.spec.azure_binding_ref.key)
    return embedded


def _compared_parts(identity: AzureIdentity) -> tuple[object, ...]:
    """Return the parts of an identity that affect assignments."""
    annotation = identity.metadata.annotation
    return identity.metadata.uid, identity.spec, annotation(BEHAVIOR_ANNOTATION), annotation(EXCHANGE_ANNOTATION)
