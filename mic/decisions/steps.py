"""Steps of a reconcile pass: the writes of AzureAssignedIdentities before and after the update of the host. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mic.decisions.assignments import AttachedBy, DesiredAssignment, ExistingAssignment, Key, PendingDetach


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object for *desired*."""

    desired: DesiredAssignment
    name: str
    status: str
    attached_by: AttachedBy


@dataclass(frozen=True, slots=True)
class Update:
    """Update *existing* in place to *desired*."""

    existing: ExistingAssignment
    desired: DesiredAssignment
    status: str
    attached_by: AttachedBy
    pending_detaches: tuple[PendingDetach, ...]


@dataclass(frozen=True, slots=True)
class SetAttachedBy:
    """Record who attached the identity."""

    existing: ExistingAssignment
    attached_by: AttachedBy


@dataclass(frozen=True, slots=True)
class Revoke:
    """Delete *existing*: NMI stops serving it immediately, and MIC's finalizer keeps the object until the detach is
    done."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class Confirm:
    """Set the status Assigned: the identity is attached."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class Explain:
    """Record on *existing* why its status is Created."""

    existing: ExistingAssignment
    message: str
    identity_at_fault: bool = False
    """Whether its AzureIdentity must be corrected, so that MIC writes an Event on that object too."""


@dataclass(frozen=True, slots=True)
class Release:
    """Set the status Unassigned and remove the finalizer, so that the API server deletes the object."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class CompleteDetaches:
    """Remove *pending_detaches*, which are done, from the object."""

    existing: ExistingAssignment
    pending_detaches: frozenset[PendingDetach]

    @property
    def remaining(self) -> tuple[PendingDetach, ...]:
        """The pending detaches that remain."""
        return tuple(
            pending_detach
            for pending_detach in self.existing.pending_detaches
            if pending_detach not in self.pending_detaches
        )


PrepareStep: TypeAlias = Create | Update | SetAttachedBy | Revoke

FinishStep: TypeAlias = Confirm | Explain | Release | CompleteDetaches
Step: TypeAlias = PrepareStep | FinishStep

OnFault: TypeAlias = Callable[[Key, Exception], None]
"""Called with the namespace and name of a pod or an object for which planning raised, and the exception. The other
steps of the host are planned nevertheless."""


def raised(_about: Key, error: Exception) -> None:
    """Raise *error*: the default `OnFault`."""
    raise error
