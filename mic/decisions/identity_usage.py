"""Usage of one identity on one VM or scale set, counted incrementally. No I/O.

Each event updates the counts of one object, so that reading them never requires a scan of all pods of a large scale
set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, Key, PendingDetach
from podidentity.azure.resource_ids import Host, UserAssignedIdentity


@dataclass(slots=True)
class IdentityUsage:
    """Usage of one identity on one host."""

    identity_id: UserAssignedIdentity
    needed: int = 0
    """Running pods on the host that need the identity."""
    owned: int = 0
    """Active objects that record that MIC attached it."""
    foreign: int = 0
    """Active objects that record that it was attached before MIC."""
    undecided: int = 0
    """Active objects that do not record who attached it: MIC has not read the host yet."""
    owned_terminating: int = 0
    """Terminating objects and pending detaches that record that MIC attached it."""
    terminating: int = 0
    """All terminating objects."""
    client_ids: dict[str, int] = field(default_factory=dict)
    """Client ids, lower-case, that the objects name for the identity, with the number of objects."""
    active: dict[Key, ExistingAssignment] = field(default_factory=dict)
    """The active objects of the identity on this host."""
    pending_detaches: dict[Key, tuple[ExistingAssignment, PendingDetach]] = field(default_factory=dict)
    """The objects with a pending detach of the identity from this host."""

    @property
    def attached_by_mic(self) -> bool:
        """Return whether any object, active or terminating, records that MIC attached it."""
        return self.owned + self.owned_terminating > 0

    @property
    def empty(self) -> bool:
        return not (self.needed or self.active or self.terminating or self.pending_detaches)

    def count(self, existing: ExistingAssignment, by: int) -> None:
        """Add (*by* 1) or remove (-1) an object that represents this identity on this host."""
        if existing.released:
            return
        if existing.terminating:
            self.terminating += by
            self.owned_terminating += by if existing.attached_by == "mic" else 0
        else:
            match existing.attached_by:
                case "mic":
                    self.owned += by
                case "foreign":
                    self.foreign += by
                case _:
                    self.undecided += by
            if by > 0:
                self.active[existing.key] = existing
            else:
                self.active.pop(existing.key, None)
        if client_id := existing.object.spec.azure_identity_ref.spec.client_id.strip().lower():
            left = self.client_ids.get(client_id, 0) + by
            if left > 0:
                self.client_ids[client_id] = left
            else:
                self.client_ids.pop(client_id, None)

    def count_pending_detach(self, existing: ExistingAssignment, pending_detach: PendingDetach, by: int) -> None:
        """Add or remove an object with a pending detach of the identity from this host."""
        self.owned_terminating += by
        if by > 0:
            self.pending_detaches[existing.key] = (existing, pending_detach)
        else:
            self.pending_detaches.pop(existing.key, None)


class HostView(Protocol):
    """Read-only state of one VM or scale set, or of one node that has neither. It is live: do not keep references."""

    @property
    def host(self) -> Host | None:
        """The VM or scale set; None for a node that no longer exists or belongs to no Azure host."""

    @property
    def usages(self) -> Mapping[str, IdentityUsage]:
        """The usage of each identity on the host, by the identity's key."""

    @property
    def terminating(self) -> Mapping[Key, ExistingAssignment]:
        """Terminating objects of this host's nodes that MIC's finalizer still keeps."""

    def out_of_sync_assignments(self) -> Iterator[tuple[DesiredAssignment | None, tuple[ExistingAssignment, ...]]]:
        """Yield the assignments that are not in sync: the desired one, if any, and the active objects.

        Without a desired assignment only this host's objects are included, otherwise also those of other hosts.
        """

    def taken(self, key: Key, desired: DesiredAssignment) -> bool:
        """Return whether an object of this name belongs to another assignment, or is terminating."""

    def holds(self, existing: ExistingAssignment) -> bool:
        """Return whether the object names a node of this host."""

    def pending_detaches_of(self, existing: ExistingAssignment) -> tuple[PendingDetach, ...]:
        """Return the pending detaches that result if the object no longer represents its identity; none if no host is
        known."""
