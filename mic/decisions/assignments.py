"""Desired and existing assignments, and their comparison. Pure.

An *assignment* is one pod's use of one identity. Pods, bindings and identities define the `DesiredAssignment`; an
`ExistingAssignment` is an AzureAssignedIdentity. An assignment is in sync when exactly one active object agrees with
the desired assignment and its status is Assigned.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from podidentity.azure.resource_ids import UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.object_limits import oversized
from podidentity.resources import (
    ASSIGNED,
    ATTACHED_BY_ANNOTATION,
    BEHAVIOR_ANNOTATION,
    FINALIZER,
    NODENAME_LABEL,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentitySpec,
    IdentityType,
    ScheduledPod,
    SecretReference,
    nodename_label,
)

DETACH_PENDING_ANNOTATION: Final = "aadpodidentity.k8s.io/detach-pending"
"""Lists identities that this object represented earlier and that MIC still has to detach: `[[host id, identity id],
…]`. An update in place (the pod moved, the identity got another resource id) thus keeps the record of ownership until
the detach is done."""

PENDING_DETACHES_MAX: Final = 64
"""Entries of that annotation that MIC reads. It adds one when a pod moves or an identity changes, and removes it when
the identity is detached."""
PENDING_DETACHES_TEXT_MAX: Final = 64 * 1024
"""Characters of that annotation. MIC never writes a longer one and ignores it. An entry has about 350."""

_JSON: Final = msgspec.json.Decoder()

AttachedBy: TypeAlias = Literal["mic", "foreign", ""]
"""Who attached the identity to the host; empty if MIC has not decided yet."""

Key: TypeAlias = tuple[str, str]
"""Namespace and name of an object."""


class AssignmentKey(NamedTuple):
    """The four parts that identify one assignment."""

    pod_namespace: str
    pod: str
    identity_namespace: str
    identity: str


class PendingDetach(NamedTuple):
    """An identity that MIC attached to a host and that the object no longer represents. Both ids keep their
    spelling."""

    host: str
    identity: str


@dataclass(frozen=True, slots=True)
class DesiredAssignment:
    """The use of one identity by a running, scheduled pod, through one binding."""

    pod: ScheduledPod
    binding: AzureIdentityBinding
    identity: AzureIdentity
    identity_id: UserAssignedIdentity | None
    """The identity that must be attached to the pod's host; None for service principals, which Azure attaches to no
    host."""
    namespaced: bool

    @property
    def assignment_key(self) -> AssignmentKey:
        pod, identity = self.pod.metadata, self.identity.metadata
        return AssignmentKey(pod.namespace, pod.name, identity.namespace, identity.name)

    @property
    def node(self) -> str:
        return self.pod.spec.node_name

    @property
    def namespace(self) -> str:
        """The namespace of its AzureAssignedIdentity."""
        return self.identity.metadata.namespace if self.namespaced else "default"


@dataclass(frozen=True, slots=True)
class ExistingAssignment:
    """An AzureAssignedIdentity with its parsed content."""

    object: AzureAssignedIdentity
    key: Key = field(init=False, repr=False, compare=False)
    assignment_key: AssignmentKey = field(init=False, repr=False, compare=False)
    identity_id: UserAssignedIdentity | None = field(init=False, repr=False, compare=False)
    """The identity on its host; None for service principals and malformed ids."""
    pending_detaches: tuple[PendingDetach, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Parsed once: every event of the object and every index that contains it uses these values.
        meta, spec = self.object.metadata, self.object.spec
        identity = spec.azure_identity_ref
        object.__setattr__(self, "key", (meta.namespace, meta.name))
        object.__setattr__(
            self,
            "assignment_key",
            AssignmentKey(spec.pod_namespace, spec.pod, identity.metadata.namespace, identity.metadata.name),
        )
        object.__setattr__(
            self,
            "identity_id",
            parse_user_assigned(identity.spec.resource_id)
            if identity.spec.type == IdentityType.USER_ASSIGNED
            else None,
        )
        written = meta.annotation(DETACH_PENDING_ANNOTATION)
        object.__setattr__(self, "pending_detaches", tuple(_decode_pending_detaches(written)) if written else ())

    @property
    def node(self) -> str:
        return self.object.spec.nodename

    @property
    def terminating(self) -> bool:
        """Return whether it has been revoked: NMI no longer serves it, and only MIC's finalizer keeps the object."""
        return self.object.metadata.deletion_timestamp is not None

    @property
    def released(self) -> bool:
        """Return whether it is terminating without MIC's finalizer: another finalizer keeps it, and MIC has nothing
        left to do for it."""
        return self.terminating and FINALIZER not in (self.object.metadata.finalizers or ())

    @property
    def attached_by(self) -> AttachedBy:
        """Who attached the identity. The Go implementation wrote no such annotation: its Assigned objects count as
        MIC's."""
        written = self.object.metadata.annotation(ATTACHED_BY_ANNOTATION)
        if written == "mic":
            return "mic"
        if written == "foreign":
            return "foreign"
        return "mic" if self.object.status.status in {ASSIGNED, ""} else ""


def _decode_pending_detaches(written: str) -> Iterable[PendingDetach]:
    """Yield at most PENDING_DETACHES_MAX entries of the annotation; skip entries that are not a pair of ids."""
    if len(written) > PENDING_DETACHES_TEXT_MAX:
        return
    try:
        entries: Any = _JSON.decode(written)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return
    for entry in entries[:PENDING_DETACHES_MAX] if isinstance(entries, list) else ():
        match entry:
            case [str(host), str(identity)] if parse_provider_id(host) and parse_user_assigned(identity):
                yield PendingDetach(host, identity)
            case _:
                continue


def encode_pending_detaches(pending_detaches: Iterable[PendingDetach]) -> str:
    """Return the annotation text that `ExistingAssignment.pending_detaches` reads."""
    return json.dumps([list(pending_detach) for pending_detach in pending_detaches], separators=(",", ":"))


def misconfigured(identity: AzureIdentity) -> str:
    """Return why no pod can have this identity, as a sentence for its author, or an empty string."""
    spec = identity.spec
    if why := oversized(identity):
        return why
    if spec.type not in set(IdentityType):
        return f"spec.type {spec.type} is not 0, 1, 2 or 3, so this identity is ignored"
    if spec.type == IdentityType.USER_ASSIGNED and parse_user_assigned(spec.resource_id) is None:
        return (
            f"spec.resourceID {spec.resource_id[:256]!r} is not of the form /subscriptions/<subscription>/"
            "resourcegroups/<group>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>, "
            "so this identity is ignored"
        )
    return ""


def may_have_identities(pod: ScheduledPod) -> bool:
    """Return whether *pod* may have identities: it has the label and a node, has not finished and is no mirror pod."""
    return bool(pod.binding_label and pod.spec.node_name) and not pod.finished and not pod.mirror


def unchanged(desired: DesiredAssignment, existing: ExistingAssignment) -> bool:
    """Return whether the object agrees with the desired assignment, apart from its status.

    resourceVersion is not compared, so that writing a status or an annotation never triggers MIC itself. The Go
    implementation did not write the pod's uid: an absent uid agrees.
    """
    meta, spec = existing.object.metadata, existing.object.spec
    identity, binding = spec.azure_identity_ref, spec.azure_binding_ref
    return (
        existing.assignment_key == desired.assignment_key
        and meta.namespace == desired.namespace
        and meta.annotation(POD_UID_ANNOTATION) in {"", desired.pod.metadata.uid}
        and spec.nodename == desired.node
        and meta.label(NODENAME_LABEL) == nodename_label(desired.node)
        and FINALIZER in (meta.finalizers or ())
        and identity.metadata.uid in {"", desired.identity.metadata.uid}
        and (identity.spec == desired.identity.spec or _substance(identity.spec) == _substance(desired.identity.spec))
        and identity.metadata.annotation(BEHAVIOR_ANNOTATION)
        == desired.identity.metadata.annotation(BEHAVIOR_ANNOTATION)
        and binding.key == desired.binding.key
        and binding.metadata.uid in {"", desired.binding.metadata.uid}
        and binding.spec == desired.binding.spec
    )


def _substance(spec: AzureIdentitySpec) -> AzureIdentitySpec:
    """Return *spec* with absent and empty fields made equal: the Go implementation writes `{}` and `[]` into its
    copies."""
    return msgspec.structs.replace(
        spec,
        client_password=spec.client_password if spec.client_password != SecretReference() else None,
        auxiliary_tenant_ids=spec.auxiliary_tenant_ids or None,
    )


def in_sync(desired: DesiredAssignment | None, active: Collection[ExistingAssignment]) -> bool:
    """Return whether an assignment needs no change, given its active objects."""
    if desired is None or not active:
        return desired is None and not active
    if len(active) > 1:
        return False
    (existing,) = active
    return (
        existing.object.status.status == ASSIGNED
        and (desired.identity_id is None or existing.attached_by != "")
        and unchanged(desired, existing)
    )
