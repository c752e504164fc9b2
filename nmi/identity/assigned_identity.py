"""The part of an AzureAssignedIdentity that a decision depends on. Pure.

`assignments` projects each watched object once (in managed mode `managed_mode` builds the same value from binding and
identity), and `decide` reads the projections. Changes of other fields (MIC's status details, resource versions, managed
fields) wake no request and discard no ready response.
"""

import sys
from typing import Final

from podidentity.compared_struct import ComparedStruct
from podidentity.resources import (
    ASSIGNED,
    BEHAVIOR_ANNOTATION,
    EXCHANGE_ANNOTATION,
    OBJECT_ID_ANNOTATION,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    Meta,
)

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

_USABLE: Final = frozenset({"", ASSIGNED})
"""An empty status comes from a MIC version from before the status existed."""

_READ_ANNOTATIONS: Final = (BEHAVIOR_ANNOTATION, OBJECT_ID_ANNOTATION, EXCHANGE_ANNOTATION)


class AssignedIdentity(ComparedStruct, frozen=True, eq=False):
    """One identity that MIC has assigned, is assigning or is revoking, for one pod; or that a binding gives it."""

    binding: str
    """The binding's name."""
    selector: str
    """The value that the pod's label must have."""
    status: str
    deleting: bool
    pod_uid: str
    """The uid of the pod that it was made for, or empty if MIC's version does not set it."""
    home: str
    """The namespace of binding, identity and assigned identity; empty if they differ."""
    identity: AzureIdentity
    """Name, namespace, the annotations that decide, and the spec; no other metadata."""
    usable_since: float = float("-inf")
    """When it was first seen usable, by the clock of `cluster_cache`. Not part of equality."""

    @property
    @override
    def compared(self) -> tuple[object, ...]:
        state = (self.selector, self.status, self.deleting, self.pod_uid)
        return (self.binding, *state, self.home, self.identity)

    @property
    def usable(self) -> bool:
        """Whether its state allows a token; `decide` checks whether it is this pod's."""
        return self.status in _USABLE and not self.deleting


def project(assigned: AzureAssignedIdentity, usable_since: float = float("-inf")) -> AssignedIdentity:
    """Return the part of *assigned* that a decision depends on."""
    spec = assigned.spec
    namespaces = {item.metadata.namespace for item in (assigned, spec.azure_identity_ref, spec.azure_binding_ref)}
    return AssignedIdentity(
        binding=spec.azure_binding_ref.metadata.name,
        selector=spec.azure_binding_ref.spec.selector,
        status=assigned.status.status,
        deleting=assigned.metadata.deletion_timestamp is not None,
        pod_uid=assigned.metadata.annotation(POD_UID_ANNOTATION),
        # A federated identity is granted only if all three objects are in the pod's namespace.
        home=namespaces.pop() if len(namespaces) == 1 else "",
        identity=trimmed(spec.azure_identity_ref),
        usable_since=usable_since,
    )


def trimmed(identity: AzureIdentity) -> AzureIdentity:
    """Return *identity* with only the metadata that a decision depends on; the same object if it has no other."""
    metadata = identity.metadata
    # A change of other metadata must neither wake requests nor discard ready responses.
    annotations = {key: value for key in _READ_ANNOTATIONS if (value := metadata.annotation(key))}
    kept = Meta(name=metadata.name, namespace=metadata.namespace, annotations=annotations or None)
    return identity if kept == metadata else AzureIdentity(metadata=kept, spec=identity.spec)
