"""What the cluster has to do with one identity on one VM or scale set, counted as things come and go. No I/O.

The counts are kept up to date one object at a time, so that asking never means looking at every pod of a large set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, Key, PendingDetach
from podidentity.azure.resource_ids import Host, UserAssignedIdentity


@dataclass(slots=True)
class IdentityUsage:
    """One identity on one host, seen from the cluster."""

    identity_id: UserAssignedIdentity
    needed: int = 0
    """Live pods on the host that need the identity."""
    owned: int = 0
    """Living objects whose record says that MIC put it there."""
    foreign: int = 0
    """Living objects whose record says that it was there before MIC."""
    undecided: int = 0
    """Living objects without a record: Azure has not been asked yet."""
    owned_terminating: int = 0
    """Revoked objects, and debts of objects now standing for something else, whose record says MIC."""
    terminating: int = 0
    """Revoked objects, whatever their record says."""
    client_ids: dict[str, int] = field(default_factory=dict)
    """Client ids, lower-case, that the identity goes by in the objects, and in how many of them."""
    active: dict[Key, ExistingAssignment] = field(default_factory=dict)
    """The living objects that stand for the identity on this host."""
    pending_detaches: dict[Key, tuple[ExistingAssignment, PendingDetach]] = field(default_factory=dict)
    """The objects that owe its detaching from this host."""

    @property
    def attached_by_mic(self) -> bool:
        """Whether any record, of the living or of those that go, says that MIC put it there."""
        return self.owned + self.owned_terminating > 0

    @property
    def empty(self) -> bool:
        return not (self.needed or self.active or self.terminating or self.pending_detaches)

    def count(self, existing: ExistingAssignment, by: int) -> None:
        """Add (*by* 1) or take away (-1) an object whose present claim is on this identity and host."""
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
        """Add or take away an object that owes the identity's detaching from this host."""
        self.owned_terminating += by
        if by > 0:
            self.pending_detaches[existing.key] = (existing, pending_detach)
        else:
            self.pending_detaches.pop(existing.key, None)


class HostView(Protocol):
    """One VM or scale set, or one node that has neither, as the cluster sees it now. Live: read it, keep nothing."""

    @property
    def host(self) -> Host | None:
        """What identities are put on; None for a node that is gone or belongs to no Azure host."""

    @property
    def usages(self) -> Mapping[str, IdentityUsage]:
        """By the identity's key."""

    @property
    def terminating(self) -> Mapping[Key, ExistingAssignment]:
        """Revoked objects of this host's nodes that our finalizer still holds."""

    def out_of_sync_assignments(self) -> Iterator[tuple[DesiredAssignment | None, tuple[ExistingAssignment, ...]]]:
        """The claims that are not settled: what is wanted, if anything, and the living objects in its place.

        Where nothing is wanted, only this host's objects are given; else, those of other hosts too.
        """

    def taken(self, key: Key, desired: DesiredAssignment) -> bool:
        """Whether an object of this name stands for another claim than *want*'s, or is still going."""

    def holds(self, existing: ExistingAssignment) -> bool:
        """Whether the object names a node of this host."""

    def pending_detaches_of(self, existing: ExistingAssignment) -> tuple[PendingDetach, ...]:
        """What would be owed if the object stopped standing for what it now names; nothing where no host is known."""
