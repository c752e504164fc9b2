"""Indexes of the cluster that five watches update event by event.

The cost of an event depends on the objects that it affects (a pod's assignments, the pods of a selector), never on the
size of the cluster. An event marks only the affected VMs and scale sets. This module makes no requests and decides
nothing; `mic.decisions` does.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from mic.cluster.bindings import BindingIndex
from mic.cluster.host_state import Assignment, HostState
from mic.cluster.pods import PodIndex, same_assignments
from mic.cluster.selectors import Concern, Ignored
from mic.decisions.assignments import (
    AssignmentKey,
    DesiredAssignment,
    ExistingAssignment,
    Key,
    PendingDetach,
    in_sync,
    misconfigured,
)
from mic.decisions.identity_usage import IdentityUsage
from podidentity.azure.resource_ids import Host, UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, Node, Pod, Resource

R_contra = TypeVar("R_contra", bound=Resource, contravariant=True)

NODE_PREFIX: Final = "node:"
"""Prefix of the key of a node that no longer exists or belongs to no Azure host; an Azure id begins with a slash."""

REVOKED_JUST_NOW: Final = "revoked"
"""Placeholder for the deletionTimestamp between the response to MIC's DELETE and the watch event."""

VERSION_DIGITS: Final = 20
"""Digits of a resourceVersion that is compared as a number: etcd's revisions have 64 bits."""

RELEASED_MAX: Final = 20_000
"""Uids of deleted objects whose watch event has not arrived: some milliseconds' worth, unless the watch is interrupted.
"""


class Changes(Protocol[R_contra]):
    """Handler of an informer's events, each for one object."""

    def upserted(self, old: R_contra | None, new: R_contra) -> None: ...

    def deleted(self, old: R_contra) -> None: ...


class _Handler(Generic[R_contra]):
    def __init__(self, change: Callable[[R_contra | None, R_contra | None], None]) -> None:
        self._change = change

    def upserted(self, old: R_contra | None, new: R_contra) -> None:
        self._change(old, new)

    def deleted(self, old: R_contra) -> None:
        self._change(old, None)


class ClusterView:
    """The indexes. `on_dirty` receives the key of each host with work to do, `on_identity` each identity that is new or
    whose spec has changed, `on_ignored` a binding that pods do not get and the reason."""

    def __init__(
        self,
        *,
        force_namespaced: bool = False,
        on_dirty: Callable[[str], None] = lambda _key: None,
        on_identity: Callable[[AzureIdentity], None] = lambda _identity: None,
        on_ignored: Ignored = lambda _binding, _why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_dirty = on_dirty
        self._on_identity = on_identity
        self._touched: set[str] = set()
        self._host_states: dict[str, HostState] = {}
        self._hosts_of_nodes: dict[str, Host | None] = {}
        self._departed: dict[str, Host] = {}
        self._pods = PodIndex()
        self._bindings = BindingIndex(force_namespaced=force_namespaced, on_ignored=on_ignored)
        self._desired: dict[Key, dict[AssignmentKey, DesiredAssignment]] = {}
        self._assignments: defaultdict[AssignmentKey, Assignment] = defaultdict(Assignment)
        self._existing: dict[Key, ExistingAssignment] = {}
        self._existing_by_node: defaultdict[str, set[Key]] = defaultdict(set)
        self._released: dict[str, None] = {}
        self._clock = clock
        self._waiting: dict[AssignmentKey, float] = {}
        self.waiting: Mapping[AssignmentKey, float] = MappingProxyType(self._waiting)
        """The desired assignments that are not in sync, with the time since when (by *clock*), oldest first."""
        self.pods: Changes[Pod] = _Handler(self._pod)
        self.nodes: Changes[Node] = _Handler(self._node)
        self.identities: Changes[AzureIdentity] = _Handler(self._identity)
        self.bindings: Changes[AzureIdentityBinding] = _Handler(self._binding)
        self.assigned: Changes[AzureAssignedIdentity] = _Handler(self._assigned)

    # Read access

    def host_state(self, key: str) -> HostState:
        """Return the state of the host; an empty one if nothing is known about it."""
        return self._host_states.get(key) or HostState(key, self)

    def host_states(self) -> Iterable[HostState]:
        return self._host_states.values()

    def assignment(self, key: AssignmentKey) -> Assignment | None:
        assignment = self._assignments.get(key)
        if assignment is not None and assignment.desired is not None:
            assignment.desired = self._bindings.current(assignment.desired)
        return assignment

    @property
    def beyond_limit(self) -> int:
        """Number of identities that do not count for a selector because others fill its limit."""
        return self._bindings.beyond_limit

    def existing(self, key: Key) -> ExistingAssignment | None:
        return self._existing.get(key)

    def host_key_of(self, existing: ExistingAssignment) -> str:
        return self._host_key(existing.node)

    def host_key_of_node(self, node: str) -> str:
        """Return the key of the host that the node belongs to."""
        return self._host_key(node)

    def state(self) -> dict[str, object]:
        """Return the numbers of objects, for /debug/state."""
        return {
            "nodes": len(self._hosts_of_nodes),
            "bound pods": len(self._pods),
            "identities": self._bindings.identities,
            "assigned identities": len(self._existing),
            "hosts": len(self._host_states),
            "waiting": len(self._waiting),
        }

    # Own writes, ahead of the watch

    def wrote(self, written: AzureAssignedIdentity) -> None:
        """Take in the API server's response to MIC's write. The watch reports the same later."""
        self._assigned(None, written)
        self._report()

    def revoked(self, existing: ExistingAssignment) -> None:
        """Record that the API server accepted MIC's DELETE: from now on the object is terminating."""
        present = self._existing.get(existing.key)
        if present is None or present.terminating or present.object.metadata.uid != existing.object.metadata.uid:
            return
        meta = msgspec.structs.replace(present.object.metadata, deletion_timestamp=REVOKED_JUST_NOW)
        self._replace_existing(present, ExistingAssignment(msgspec.structs.replace(present.object, metadata=meta)))
        self._report()

    def gone(self, existing: ExistingAssignment) -> None:
        """Record that the object is deleted, even if the watch still delivers older events."""
        present = self._existing.get(existing.key)
        if present is not None and present.object.metadata.uid == existing.object.metadata.uid:
            self._released[existing.object.metadata.uid] = None
            if len(self._released) > RELEASED_MAX:
                del self._released[next(iter(self._released))]
            self._replace_existing(present, None)
            self._report()

    # Events

    def _pod(self, _old: Pod | None, new: Pod | None) -> None:
        key = (new or _old or Pod()).key
        before, now = self._pods.replace(key, new)
        if before is not None and now is not None and same_assignments(before, now):
            self._renew(key, now)
        elif before is not None or now is not None:
            self._update_all_desired(key)
        self._report()

    def _renew(self, key: Key, pod: Pod) -> None:
        """Replace the pod in its desired assignments, which do not depend on the difference, and release the older
        object."""
        all_desired = self._desired.get(key, {})
        for assignment, desired in all_desired.items():
            self._assignments[assignment].desired = all_desired[assignment] = replace(desired, pod=pod)

    def _binding(self, old: AzureIdentityBinding | None, new: AzureIdentityBinding | None) -> None:
        if new is not None:
            self._look_into(self._bindings.put_binding(new))
        elif old is not None:
            self._look_into(self._bindings.remove_binding(old))
        self._report()

    def _identity(self, old: AzureIdentity | None, new: AzureIdentity | None) -> None:
        if new is not None:
            before = self._bindings.identity(new.key)
            self._look_into(self._bindings.put_identity(new))
            if before is None or _as_told(before) != _as_told(new):
                self._on_identity(new)
        elif old is not None:
            self._look_into(self._bindings.remove_identity(old.key))
        self._report()

    def _look_into(self, concerns: Iterable[Concern]) -> None:
        """Recompute the desired assignments that may have changed."""
        for selector, namespace, identity in concerns:
            for pod in self._pods.selected(selector, namespace):
                self._update_desired(pod, identity)

    def _node(self, old: Node | None, new: Node | None) -> None:
        name = (new or old or Node()).metadata.name
        if new is None:
            host = self._hosts_of_nodes.get(name)
            self._move_node(name, known=False, host=None, departed=host)
        else:
            host = parse_provider_id(new.spec.provider_id) if new.spec.provider_id else None
            if name in self._hosts_of_nodes and _same_host(self._hosts_of_nodes[name], host):
                return  # a heartbeat
            self._move_node(name, known=True, host=host, departed=None)
        self._report()

    def _assigned(self, _old: AzureAssignedIdentity | None, new: AzureAssignedIdentity | None) -> None:
        if new is None:
            if _old is not None:
                self._released.pop(_old.metadata.uid, None)
                present = self._existing.get(_old.key)
                if present is not None and present.object.metadata.uid == _old.metadata.uid:
                    self._replace_existing(present, None)
        elif new.metadata.uid not in self._released or not new.metadata.uid:
            present = self._existing.get(new.key)
            if present is None or not _stale(present.object, new):
                self._replace_existing(present, ExistingAssignment(new))
        self._report()

    # Indexes

    def _update_all_desired(self, pod_key: Key) -> None:
        """Recompute all desired assignments of one pod, and update the counts accordingly."""
        pod = self._pods.get(pod_key)
        before = self._desired.get(pod_key, {}).keys()
        keys = {AssignmentKey(*pod_key, *each) for each in self._offered(pod)} if pod is not None else set()
        for key in before | keys:
            self._update_desired(pod_key, (key.identity_namespace, key.identity))

    def _offered(self, pod: Pod) -> Iterable[Key]:
        if pod.spec.node_name not in self._hosts_of_nodes:
            return ()
        return self._bindings.offered(pod.metadata.namespace, pod.binding_label)

    def _update_desired(self, pod_key: Key, identity: Key) -> None:
        """Recompute the desired assignment of one pod for one identity."""
        key = AssignmentKey(*pod_key, *identity)
        all_desired = self._desired.get(pod_key)
        before = all_desired.get(key) if all_desired is not None else None
        now = self._desired_now(pod_key, key, identity)
        if before is None and now is None:
            return
        if now is not None:
            self._desired.setdefault(pod_key, {})[key] = now
        elif all_desired is not None:
            del all_desired[key]
            if not all_desired:
                del self._desired[pod_key]
        self._set_desired(key, before, now)

    def _desired_now(self, pod_key: Key, key: AssignmentKey, identity: Key) -> DesiredAssignment | None:
        pod = self._pods.get(pod_key)
        if pod is None or pod.spec.node_name not in self._hosts_of_nodes:
            return None
        assignment = self._assignments.get(key)
        embedded = (
            {existing.object.spec.azure_binding_ref.key for existing in assignment.active.values()}
            if assignment
            else ()
        )
        desired = self._bindings.desired(pod, identity, embedded)
        if desired is not None and desired.identity_id is not None and self._hosts_of_nodes[pod.spec.node_name] is None:
            return None
        return desired

    def _set_desired(self, key: AssignmentKey, before: DesiredAssignment | None, now: DesiredAssignment | None) -> None:
        if before is not None and before.identity_id is not None:
            self._count_needed(before.node, before.identity_id, -1)
        if now is not None and now.identity_id is not None:
            self._count_needed(now.node, now.identity_id, 1)
        self._assignments[key].desired = now
        self._judge(key)

    def _count_needed(self, node: str, identity_id: UserAssignedIdentity, by: int) -> None:
        host_key = self._host_key(node)
        self._usage(host_key, identity_id).needed += by
        self._tidy(host_key, identity_id)

    def _replace_existing(self, before: ExistingAssignment | None, now: ExistingAssignment | None) -> None:
        keys = set()
        concerns: list[Concern] = []
        for existing, by in ((before, -1), (now, 1)):
            if existing is None:
                continue
            keys.add(existing.assignment_key)
            self._index_existing(existing, by)
            if not existing.terminating:
                concerns += self._bindings.embeds(existing, by)
        if before is not None and before.node not in self._existing_by_node:
            self._departed.pop(before.node, None)
        for key in keys:
            desired = self._assignments[key].desired
            if desired is not None and now is not None and now.object.spec.azure_binding_ref.key != desired.binding.key:
                # Two bindings may name this identity; the existing object decides which one counts.
                self._update_desired(desired.pod.key, desired.identity.key)
            else:
                self._judge(key)
        self._look_into(concerns)

    def _index_existing(self, existing: ExistingAssignment, by: int) -> None:
        host_key = self._host_key(existing.node)
        if by > 0:
            self._existing[existing.key] = existing
            self._existing_by_node[existing.node].add(existing.key)
        else:
            self._existing.pop(existing.key, None)
            _discard(self._existing_by_node, existing.node, existing.key)
        self._count_existing(existing, host_key, by)
        assignment = self._assignments[existing.assignment_key]
        if existing.terminating:
            terminating = self._host_state_at(host_key).terminating
            if by > 0:
                terminating[existing.key] = existing
            else:
                terminating.pop(existing.key, None)
        elif by > 0:
            assignment.active[existing.key] = existing
        else:
            assignment.active.pop(existing.key, None)
        for pending_detach in existing.pending_detaches:
            self._count_pending_detach(existing, pending_detach, by)
        self._touched.add(host_key)

    def _count_existing(self, existing: ExistingAssignment, host_key: str, by: int) -> None:
        if existing.identity_id is not None:
            self._usage(host_key, existing.identity_id).count(existing, by)
            self._tidy(host_key, existing.identity_id)

    def _count_pending_detach(self, existing: ExistingAssignment, pending_detach: PendingDetach, by: int) -> None:
        identity_id = parse_user_assigned(pending_detach.identity)
        if identity_id is None:
            return
        host_state = self._host_state_at(pending_detach.host.lower())
        host_state.pending_detaches += by
        self._usage(host_state.key, identity_id).count_pending_detach(existing, pending_detach, by)
        self._tidy(host_state.key, identity_id)
        self._touched.add(host_state.key)

    def _judge(self, key: AssignmentKey) -> None:
        assignment = self._assignments[key]
        for host_key in assignment.out_of_sync_at:
            self._host_state_at(host_key).out_of_sync.pop(key, None)
            self._touched.add(host_key)
        assignment.out_of_sync_at = ()
        if not in_sync(assignment.desired, assignment.active.values()):
            if assignment.desired is not None:
                assignment.out_of_sync_at = (self._host_key(assignment.desired.node),)
            else:
                assignment.out_of_sync_at = tuple(
                    {self.host_key_of(existing) for existing in assignment.active.values()}
                )
            for host_key in assignment.out_of_sync_at:
                self._host_state_at(host_key).out_of_sync[key] = None
                self._touched.add(host_key)
        if assignment.desired is not None and assignment.out_of_sync_at:
            self._waiting.setdefault(key, self._clock())
        else:
            self._waiting.pop(key, None)
        if assignment.desired is None and not assignment.active:
            del self._assignments[key]

    # Hosts

    def _host_key(self, node: str) -> str:
        host = self._hosts_of_nodes.get(node) or self._departed.get(node)
        return host.key if host is not None else NODE_PREFIX + node

    def _host_state_at(self, key: str) -> HostState:
        host_state = self._host_states.get(key)
        if host_state is None:
            host_state = self._host_states[key] = HostState(key, self)
        return host_state

    def _usage(self, host_key: str, identity_id: UserAssignedIdentity) -> IdentityUsage:
        usages = self._host_state_at(host_key).usages
        usage = usages.get(identity_id.key)
        if usage is None:
            usage = usages[identity_id.key] = IdentityUsage(identity_id)
        return usage

    def _tidy(self, host_key: str, identity_id: UserAssignedIdentity) -> None:
        self._touched.add(host_key)
        if self._host_states[host_key].usages[identity_id.key].empty:
            del self._host_states[host_key].usages[identity_id.key]

    def _move_node(self, name: str, *, known: bool, host: Host | None, departed: Host | None) -> None:
        """Move *name* to *host*, or to no host, with the assignments and objects of its pods.

        The objects of a node that leaves a scale set stay with the set while it has other nodes: an identity that MIC
        attached to the set for the node's pods must still be detached when no other pod needs it.
        """
        pods = tuple(self._pods.on_node(name))
        objects = tuple(self._existing[key] for key in self._existing_by_node.get(name, ()))
        for pod in pods:
            for key, desired in self._desired.pop(pod, {}).items():
                self._set_desired(key, desired, None)
        for existing in objects:
            self._index_existing(existing, -1)
        old = self._hosts_of_nodes.pop(name, None)
        self._departed.pop(name, None)
        if old is not None:
            host_state = self._host_state_at(old.key)
            host_state.nodes.discard(name)
            if not host_state.nodes:
                self._abandon(host_state)
            elif departed is not None and objects:
                self._departed[name] = departed
        if known:
            self._hosts_of_nodes[name] = host
            if host is not None:
                host_state = self._host_state_at(host.key)
                host_state.nodes.add(name)
                host_state.host = host
        for existing in objects:
            self._index_existing(existing, 1)
        for existing in objects:
            self._judge(existing.assignment_key)
        for pod in pods:
            self._update_all_desired(pod)

    def _abandon(self, host_state: HostState) -> None:
        """Handle the removal of the host's last node: each object now belongs to its own node only."""
        host_state.host = None
        self._touched.add(host_state.key)
        for name in [name for name, host in self._departed.items() if host.key == host_state.key]:
            self._move_node(name, known=False, host=None, departed=None)

    def _report(self) -> None:
        touched, self._touched = self._touched, set()
        for key in touched:
            host_state = self._host_states.get(key)
            if host_state is None:
                continue
            if host_state.empty:
                del self._host_states[key]
            elif host_state.has_work:
                self._on_dirty(key)


def _discard(index: defaultdict[str, set[Key]], value: str, key: Key) -> None:
    keys = index.get(value)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[value]


def _as_told(identity: AzureIdentity) -> tuple[object, ...]:
    return identity.metadata.uid, identity.spec, misconfigured(identity)


def _same_host(first: Host | None, second: Host | None) -> bool:
    return (first.key if first else None) == (second.key if second else None)


def _stale(present: AzureAssignedIdentity, new: AzureAssignedIdentity) -> bool:
    """Return whether the watch event is older than the response to MIC's own write.

    Only versions of one object are compared, and only as whole numbers, which they are in every API server that keeps
    its objects in etcd. Any other version counts as new.
    """
    if present.metadata.uid != new.metadata.uid:
        return False
    before, now = present.metadata.resource_version, new.metadata.resource_version
    if before == now and present.metadata.deletion_timestamp == REVOKED_JUST_NOW:
        return True
    return all(each.isdecimal() and len(each) <= VERSION_DIGITS for each in (before, now)) and int(now) < int(before)
