"""State of the cluster, which five watches update event by event.

The cost of an event depends on the objects that it affects (a pod's assignments, the pods of a selector), never on the
size of the cluster. An event marks only the affected hosts. This module compares the desired with the existing
assignments; `pods`, `bindings`, `existing_objects` and `hosts` are the indexes that it keeps consistent. It makes no
requests and decides nothing; `mic.decisions` does.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from mic.cluster.binding_groups import BindingGroup
from mic.cluster.bindings import BindingIndex
from mic.cluster.changes import ChangeHandler, Changes
from mic.cluster.existing_objects import ExistingObjects, revoked_version
from mic.cluster.host_state import Assignment, HostState
from mic.cluster.hosts import HostIndex
from mic.cluster.pods import PodIndex, same_assignments
from mic.cluster.selectors import Concern, Ignored
from mic.decisions.assignments import (
    AssignmentKey,
    DesiredAssignment,
    ExistingAssignment,
    Key,
    assignment_key,
    in_sync,
    misconfigured,
)
from podidentity.azure.resource_ids import Host, parse_provider_id
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, Node, ScheduledPod


class ClusterView:
    """The indexes. `on_dirty` receives the key of each host with work to do, `on_identity` each identity that is new or
    whose spec has changed, `on_ignored` a binding that pods do not get and the reason."""

    def __init__(
        self,
        *,
        loading: bool = False,
        force_namespaced: bool = False,
        on_dirty: Callable[[str], None] = lambda _key: None,
        on_identity: Callable[[AzureIdentity], None] = lambda _identity: None,
        on_ignored: Ignored = lambda _binding, _reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*loading*: the first lists are read, if possible the pods last. Until `loaded`, `on_dirty` is not called, and
        objects without a desired assignment are not compared, because it may follow."""
        self._loading = loading
        self._on_dirty = on_dirty
        self._on_identity = on_identity
        self._hosts = HostIndex(self)
        self._pods = PodIndex()
        self._bindings = BindingIndex(force_namespaced=force_namespaced, on_ignored=on_ignored)
        self._desired: dict[Key, tuple[AssignmentKey, ...]] = {}
        """By pod: the keys of its desired assignments, which `_assignments` contains."""
        self._assignments: defaultdict[AssignmentKey, Assignment] = defaultdict(Assignment)
        self._objects = ExistingObjects()
        self._clock = clock
        self._waiting: dict[AssignmentKey, float] = {}
        self.waiting: Mapping[AssignmentKey, float] = MappingProxyType(self._waiting)
        """The desired assignments that are not in sync, with the time since when (by *clock*), oldest first."""
        self.pods: Changes[ScheduledPod] = ChangeHandler(self._pod)
        self.nodes: Changes[Node] = ChangeHandler(self._node)
        self.identities: Changes[AzureIdentity] = ChangeHandler(self._identity)
        self.bindings: Changes[AzureIdentityBinding] = ChangeHandler(self._binding)
        self.assigned: Changes[AzureAssignedIdentity] = ChangeHandler(self._assigned)

    # Read access

    def host_state(self, key: str) -> HostState:
        """Return the state of the host; an empty one if nothing is known about it."""
        return self._hosts.state(key)

    def host_states(self) -> Iterable[HostState]:
        return self._hosts.states()

    def assignment(self, key: AssignmentKey) -> Assignment | None:
        assignment = self._assignments.get(key)
        if assignment is not None and assignment.desired is not None:
            # Only now, so that a new version of an identity costs nothing for each of its pods.
            assignment.desired = self._bindings.current(assignment.desired)
        return assignment

    @property
    def beyond_limit(self) -> int:
        """Number of identities that do not count for a selector because others fill its limit."""
        return self._bindings.beyond_limit

    def existing(self, key: Key) -> ExistingAssignment | None:
        return self._objects.get(key)

    def host_key_of(self, existing: ExistingAssignment) -> str:
        return self._hosts.key_of(existing.node)

    def host_key_of_node(self, node: str) -> str:
        """Return the key of the host that the node belongs to."""
        return self._hosts.key_of(node)

    def state(self) -> dict[str, object]:
        """Return the numbers of objects, for /debug/state."""
        return {
            "nodes": self._hosts.nodes,
            "bound pods": len(self._pods),
            "identities": self._bindings.identities,
            "assigned identities": len(self._objects),
            "hosts": len(self._hosts),
            "waiting": len(self._waiting),
        }

    # First lists

    def loaded(self) -> Iterator[None]:
        """End the loading. Each step is short; the caller runs all of them, with pauses for other work."""
        self._loading = False
        # A copy, because events change the assignments between two steps.
        for key in [key for key, assignment in self._assignments.items() if assignment.desired is None]:
            if (assignment := self._assignments.get(key)) is not None:
                self._update_sync_state(key, assignment)
            yield
        self._report()

    # Own writes, ahead of the watch

    def wrote(self, written: AzureAssignedIdentity) -> None:
        """Take in the API server's response to MIC's write. The watch reports the same later."""
        self._assigned(None, written)
        self._report()

    def revoked(self, existing: ExistingAssignment) -> None:
        """Record that the API server accepted MIC's DELETE: from now on the object is terminating."""
        present = self._objects.same(existing.object)
        if present is not None and not present.terminating:
            self._replace_existing(present, revoked_version(present))
            self._report()

    def gone(self, existing: ExistingAssignment) -> None:
        """Record that the object is deleted, even if the watch still delivers older events."""
        present = self._objects.same(existing.object)
        if present is not None:
            self._objects.released(existing.object.metadata.uid)
            self._replace_existing(present, None)
            self._report()

    # Events

    def _pod(self, old: ScheduledPod | None, new: ScheduledPod | None) -> None:
        key = (new or old or ScheduledPod()).key
        before, now = self._pods.replace(key, new)
        if before is not None and now is not None and same_assignments(before, now):
            self._renew(key, now)
        elif before is not None or now is not None:
            self._update_all_desired(key, now)
        self._report()

    def _renew(self, key: Key, pod: ScheduledPod) -> None:
        """Replace the pod in its desired assignments, which do not depend on the difference, and release the older
        object."""
        for desired_key in self._desired.get(key, ()):
            assignment = self._assignments[desired_key]
            if assignment.desired is not None:
                assignment.desired = msgspec.structs.replace(assignment.desired, pod=pod)

    def _binding(self, old: AzureIdentityBinding | None, new: AzureIdentityBinding | None) -> None:
        if new is not None:
            self._recompute(self._bindings.put_binding(new))
        elif old is not None:
            self._recompute(self._bindings.remove_binding(old))
        self._report()

    def _identity(self, old: AzureIdentity | None, new: AzureIdentity | None) -> None:
        if new is not None:
            before = self._bindings.identity(new.key)
            self._recompute(self._bindings.put_identity(new))
            if before is None or _reported_parts(before) != _reported_parts(new):
                self._on_identity(new)
        elif old is not None:
            self._recompute(self._bindings.remove_identity(old.key))
        self._report()

    def _recompute(self, concerns: Iterable[Concern]) -> None:
        """Recompute the desired assignments that may have changed."""
        for selector, namespace, identity in concerns:
            for key in self._pods.selected(selector, namespace):
                self._update_desired(key, AssignmentKey(*key, *identity))

    def _node(self, old: Node | None, new: Node | None) -> None:
        name = (new or old or Node()).metadata.name
        if new is None:
            self._move_node(name, exists=False, host=None, keeps_objects=True)
        else:
            host = parse_provider_id(new.spec.provider_id) if new.spec.provider_id else None
            if self._hosts.exists(name) and _same_host(self._hosts.host_of(name), host):
                return  # a heartbeat
            self._move_node(name, exists=True, host=host)
        self._report()

    def _assigned(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity | None) -> None:
        if new is not None:
            present = self._objects.get(new.key)
            if not self._objects.is_outdated(present, new):
                self._replace_existing(present, ExistingAssignment(new))
        elif old is not None:
            self._objects.watch_deleted(old.metadata.uid)
            present = self._objects.same(old)
            if present is not None:
                self._replace_existing(present, None)
        self._report()

    # Indexes

    def _update_all_desired(self, pod_key: Key, pod: ScheduledPod | None) -> None:
        """Recompute all desired assignments of one pod, and update the counts accordingly."""
        before = self._desired.get(pod_key, ())
        now: dict[AssignmentKey, BindingGroup] = {}
        if pod is not None and self._hosts.exists(pod.spec.node_name):
            groups = self._bindings.groups(pod.metadata.namespace, pod.binding_label)
            now = {assignment_key(pod_key + identity): group for identity, group in groups.items()}
        for key, group in now.items():
            self._update(pod_key, key, pod, group)
        for key in before:
            if key not in now:
                self._update(pod_key, key, pod, None)

    def _update_desired(self, pod_key: Key, key: AssignmentKey) -> None:
        """Recompute the desired assignment of one pod for one identity."""
        pod = self._pods.get(pod_key)
        self._update(pod_key, key, pod, self._bindings.group(pod, key[2:]) if pod is not None else None)

    def _update(self, pod_key: Key, key: AssignmentKey, pod: ScheduledPod | None, group: BindingGroup | None) -> None:
        """Recompute the desired assignment of *pod*, which has the identity through *group*, or does not have it."""
        assignment = self._assignments.get(key)
        if assignment is not None and assignment.active:
            key = assignment.active[0].assignment_key  # an equal key, which is stored once
        before = assignment.desired if assignment is not None else None
        now = self._desired_now(pod, group, assignment) if pod is not None and group is not None else None
        if before is None and now is None:
            return
        if before is None:
            keys = self._desired.get(pod_key)
            self._desired[pod_key] = (*keys, key) if keys is not None else (key,)
        elif now is None:
            others = tuple(desired_key for desired_key in self._desired[pod_key] if desired_key != key)
            if others:
                self._desired[pod_key] = others
            else:
                del self._desired[pod_key]
        self._set_desired(key, self._assignments[key] if assignment is None else assignment, now)

    def _desired_now(
        self, pod: ScheduledPod, group: BindingGroup, assignment: Assignment | None
    ) -> DesiredAssignment | None:
        node = pod.spec.node_name
        # Its host is unknown until the watch reports the node, which recomputes its pods.
        if not self._hosts.exists(node):
            return None
        embedded = [existing.object.spec.azure_binding_ref.key for existing in assignment.active] if assignment else ()
        desired = self._bindings.desired(pod, group, embedded)
        needs_host = desired is not None and desired.identity_id is not None
        # On a node outside of Azure the identity can never be attached.
        return None if needs_host and self._hosts.host_of(node) is None else desired

    def _set_desired(self, key: AssignmentKey, assignment: Assignment, now: DesiredAssignment | None) -> None:
        before = assignment.desired
        if before is not None and before.identity_id is not None:
            self._hosts.count_needed(before.node, before.identity_id, -1)
        if now is not None and now.identity_id is not None:
            self._hosts.count_needed(now.node, now.identity_id, 1)
        assignment.desired = now
        self._update_sync_state(key, assignment)

    def _replace_existing(self, before: ExistingAssignment | None, now: ExistingAssignment | None) -> None:
        concerns: list[Concern] = []
        if before is not None:
            self._index_existing(before, -1)
            if not before.terminating:
                concerns += self._bindings.embeds(before, -1)
        if now is not None:
            self._index_existing(now, 1)
            if not now.terminating:
                concerns += self._bindings.embeds(now, 1)
        if before is not None and not self._objects.is_any_on(before.node):
            self._hosts.forget_departed(before.node)
        if now is not None:
            self._compare(now.assignment_key, now)
        if before is not None and (now is None or before.assignment_key != now.assignment_key):
            self._compare(before.assignment_key, now)
        if concerns:
            self._recompute(concerns)

    def _compare(self, key: AssignmentKey, now: ExistingAssignment | None) -> None:
        """Compare the assignment again, of which one object has become *now*."""
        assignment = self._assignments[key]
        desired = assignment.desired
        if desired is not None and now is not None and now.object.spec.azure_binding_ref.key != desired.binding.key:
            # Two bindings may name this identity; the existing object decides which one counts.
            self._update_desired(desired.pod.key, key)
        else:
            self._update_sync_state(key, assignment)

    def _index_existing(self, existing: ExistingAssignment, by: int) -> None:
        """Add (*by* 1) or remove (-1) the object."""
        if by > 0:
            self._objects.put(existing)
        else:
            self._objects.remove(existing)
        self._hosts.count_existing(existing, by)
        assignment = self._assignments[existing.assignment_key]
        if existing.terminating:
            return
        if assignment.active:
            others = tuple(active for active in assignment.active if active.key != existing.key)
            assignment.active = (*others, existing) if by > 0 else others
        elif by > 0:
            assignment.active = (existing,)

    def _update_sync_state(self, key: AssignmentKey, assignment: Assignment) -> None:
        desired, active = assignment.desired, assignment.active
        if self._loading and desired is None:
            return
        for host_key in assignment.out_of_sync_at:
            self._hosts.set_out_of_sync(host_key, key, out_of_sync=False)
        if in_sync(desired, active):
            assignment.out_of_sync_at = ()
        else:
            assignment.out_of_sync_at = (
                (self._hosts.key_of(desired.node),)
                if desired is not None
                else tuple({self.host_key_of(existing) for existing in active})
            )
            for host_key in assignment.out_of_sync_at:
                self._hosts.set_out_of_sync(host_key, key, out_of_sync=True)
        if desired is not None and assignment.out_of_sync_at:
            # The first time stays, so that the oldest assignment is the first entry.
            self._waiting.setdefault(key, self._clock())
        elif key in self._waiting:
            del self._waiting[key]
        if desired is None and not active:
            del self._assignments[key]

    def _move_node(self, name: str, *, exists: bool, host: Host | None, keeps_objects: bool = False) -> None:
        """Move *name* to *host*, or to no host, with the assignments and objects of its pods.

        With *keeps_objects*, the objects of a node that leaves a scale set stay with the set while it has other nodes:
        an identity that MIC attached to the set for the node's pods must still be detached when no other pod needs it.
        """
        pods = tuple(self._pods.on_node(name))
        objects = self._objects.on_node(name)
        # First all counts of the former host are removed: they are found by the node's host, which changes below.
        for pod_key in pods:
            for key in self._desired.pop(pod_key, ()):
                self._set_desired(key, self._assignments[key], None)
        for existing in objects:
            self._index_existing(existing, -1)
        for earlier in self._hosts.remove_node(name, keeps_objects=keeps_objects and bool(objects)):
            self._move_node(earlier, exists=False, host=None)
        if exists:
            self._hosts.add_node(name, host)
        for existing in objects:
            self._index_existing(existing, 1)
        for existing in objects:
            self._update_sync_state(existing.assignment_key, self._assignments[existing.assignment_key])
        for pod_key in pods:
            self._update_all_desired(pod_key, self._pods.get(pod_key))

    def _report(self) -> None:
        if self._loading:
            return
        for key in self._hosts.take_dirty():
            self._on_dirty(key)


def _reported_parts(identity: AzureIdentity) -> tuple[object, ...]:
    """Return the parts of which `on_identity` receives a change."""
    return identity.metadata.uid, identity.spec, misconfigured(identity)


def _same_host(first: Host | None, second: Host | None) -> bool:
    return (first.key if first else None) == (second.key if second else None)
