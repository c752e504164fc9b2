"""What an AzureAssignedIdentity says, reduced to what a decision depends on. Pure.

`assignments` projects each watched object once (in managed mode `managed` makes the same of binding and identity);
`decide` reads the projections. What is not in the projection (MIC's notes, resource versions, managed fields) may
change without waking anybody or emptying anything.
"""

from dataclasses import dataclass, field
from typing import Final

from podidentity.resources import (
    ASSIGNED,
    BEHAVIOR_ANNOTATION,
    OBJECT_ID_ANNOTATION,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    Meta,
)

_USABLE: Final = frozenset({"", ASSIGNED})
"""An empty status was written by a MIC from before the status existed."""

_READ_ANNOTATIONS: Final = (BEHAVIOR_ANNOTATION, OBJECT_ID_ANNOTATION)


@dataclass(frozen=True, slots=True)
class AssignedIdentity:
    """One identity that MIC has put, is putting, or is taking off, for one pod; or that a binding gives it."""

    binding: str
    """The binding's name."""
    selector: str
    """What the pod's label must equal."""
    status: str
    deleting: bool
    pod_uid: str
    """The pod that it was made for, or empty where a MIC that does not say so made it."""
    home: str
    """The namespace that all of it is in: binding, identity and the object that joins them; empty if they differ."""
    identity: AzureIdentity
    """Name, namespace, the annotations that decide, and the spec; nothing else of its metadata."""
    usable_since: float = field(default=float("-inf"), compare=False)
    """By `feed`'s clock: when it was first seen usable. Not part of what makes two of them differ."""

    @property
    def usable(self) -> bool:
        """Whether its state allows a token; whether it is this pod's is another question (`decide`)."""
        return self.status in _USABLE and not self.deleting

    @property
    def order(self) -> tuple[str, str, str]:
        """By binding name, then identity name: which one a request gets that names none."""
        return self.binding, self.identity.metadata.name, self.identity.metadata.namespace


def project(assigned: AzureAssignedIdentity, usable_since: float = float("-inf")) -> AssignedIdentity:
    """What of *assigned* a decision depends on."""
    spec = assigned.spec
    namespaces = {each.metadata.namespace for each in (assigned, spec.azure_identity_ref, spec.azure_binding_ref)}
    return AssignedIdentity(
        binding=spec.azure_binding_ref.metadata.name,
        selector=spec.azure_binding_ref.spec.selector,
        status=assigned.status.status,
        deleting=assigned.metadata.deletion_timestamp is not None,
        pod_uid=assigned.metadata.annotation(POD_UID_ANNOTATION),
        home=namespaces.pop() if len(namespaces) == 1 else "",
        identity=trimmed(spec.azure_identity_ref),
        usable_since=usable_since,
    )


def trimmed(identity: AzureIdentity) -> AzureIdentity:
    """*identity* with that part of its metadata only on which a decision depends."""
    metadata = identity.metadata
    annotations = {key: value for key in _READ_ANNOTATIONS if (value := metadata.annotation(key))}
    return AzureIdentity(
        metadata=Meta(name=metadata.name, namespace=metadata.namespace, annotations=annotations or None),
        spec=identity.spec,
    )
