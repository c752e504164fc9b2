"""State of VMs and scale sets according to the cluster: nodes, assignments out of sync, terminating objects. No I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from mic.decisions.assignments import AssignmentKey, DesiredAssignment, ExistingAssignment, Key, PendingDetach
from mic.decisions.identity_usage import IdentityUsage
from podidentity.azure.resource_ids import Host


# No gc, for the same reason as the assignments in it.
class Assignment(msgspec.Struct, gc=False):
    """One pod's use of one identity: the desired assignment, if any, and the active objects."""

    desired: DesiredAssignment | None = None
    active: tuple[ExistingAssignment, ...] = ()
    out_of_sync_at: tuple[str, ...] = ()
    """Keys of the hosts that have to act on it."""


class ClusterLookup(Protocol):
    """The parts of the cluster state that a host's state reads."""

    def assignment(self, key: AssignmentKey) -> Assignment | None:
        """Return the assignment with this key."""

    def existing(self, key: Key) -> ExistingAssignment | None:
        """Return the object with this namespace and name."""

    def host_state(self, key: str) -> "HostState":
        """Return the state of the host with this key."""

    def host_key_of(self, existing: ExistingAssignment) -> str:
        """Return the key of the host of the node that the object names."""


@dataclass(slots=True)
class HostState:
    """State of one VM or scale set, or of one node without either. Implements `HostView`; ClusterView owns and changes
    it."""

    key: str
    cluster: ClusterLookup
    host: Host | None = None
    nodes: set[str] = field(default_factory=set)
    usages: dict[str, IdentityUsage] = field(default_factory=dict)
    terminating: dict[Key, ExistingAssignment] = field(default_factory=dict)
    out_of_sync: dict[AssignmentKey, None] = field(default_factory=dict)
    pending_detaches: int = 0

    @property
    def has_work(self) -> bool:
        """Return whether anything on this host is out of sync, according to the cluster."""
        return bool(self.out_of_sync or self.terminating or self.pending_detaches)

    @property
    def empty(self) -> bool:
        return not (self.nodes or self.usages or self.has_work)

    def out_of_sync_assignments(self) -> Iterator[tuple[DesiredAssignment | None, tuple[ExistingAssignment, ...]]]:
        for key in self.out_of_sync:
            assignment = self.cluster.assignment(key)
            if assignment is None:
                continue
            if assignment.desired is not None:
                yield assignment.desired, assignment.active
            else:
                yield (
                    None,
                    tuple(existing for existing in assignment.active if self.cluster.host_key_of(existing) == self.key),
                )

    def taken(self, key: Key, desired: DesiredAssignment) -> bool:
        existing = self.cluster.existing(key)
        return existing is not None and (existing.terminating or existing.assignment_key != desired.assignment_key)

    def holds(self, existing: ExistingAssignment) -> bool:
        return self.cluster.host_key_of(existing) == self.key

    def pending_detaches_of(self, existing: ExistingAssignment) -> tuple[PendingDetach, ...]:
        host = self.cluster.host_state(self.cluster.host_key_of(existing)).host
        return (
            (PendingDetach(host.text, existing.identity_id.text),)
            if host is not None and existing.identity_id is not None
            else ()
        )
