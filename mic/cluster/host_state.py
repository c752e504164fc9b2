"""VMs and scale sets as the cluster sees them: whose nodes, which claims are open, what is leaving. No I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mic.decisions.assignments import AssignmentKey, DesiredAssignment, ExistingAssignment, Key, PendingDetach
from mic.decisions.identity_usage import IdentityUsage
from podidentity.azure.resource_ids import Host


@dataclass(slots=True)
class Assignment:
    """One pod's need of one identity: what is wanted, if anything, and the living objects that stand for it."""

    desired: DesiredAssignment | None = None
    active: dict[Key, ExistingAssignment] = field(default_factory=dict)
    out_of_sync_at: tuple[str, ...] = ()
    """The places that have to do something about it."""


class ClusterLookup(Protocol):
    """What a place asks of the rest of the cluster."""

    def assignment(self, key: AssignmentKey) -> Assignment | None:
        """The claim by its key."""

    def existing(self, key: Key) -> ExistingAssignment | None:
        """The object by its namespace and name."""

    def host_state(self, key: str) -> "HostState":
        """The place by its key."""

    def host_key_of(self, existing: ExistingAssignment) -> str:
        """The key of the place of the node that the object names."""


@dataclass(slots=True)
class HostState:
    """One VM or scale set, or one node without either. Implements `stakes.Picture`; owned and changed by the View."""

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
        """Whether anything here differs from what it should be, as far as the cluster can tell."""
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
                yield assignment.desired, tuple(assignment.active.values())
            else:
                yield (
                    None,
                    tuple(
                        existing
                        for existing in assignment.active.values()
                        if self.cluster.host_key_of(existing) == self.key
                    ),
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
