"""Desired and existing assignments, and their comparison. Pure.

An *assignment* is one pod's use of one identity. Pods, bindings and identities define the `DesiredAssignment`; an
`ExistingAssignment` is an AzureAssignedIdentity. An assignment is in sync when exactly one active object agrees with
the desired assignment and its status is Assigned.
"""

import json
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from podidentity.azure.resource_ids import UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.object_limits import oversized
from podidentity.resources import (
    ASSIGNED,
    ATTACHED_BY_ANNOTATION,
    BEHAVIOR_ANNOTATION,
    EXCHANGE_ANNOTATION,
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


assignment_key: Final[Callable[[tuple[str, str, str, str]], AssignmentKey]] = partial(tuple.__new__, AssignmentKey)
"""Return the key with these parts. Faster than the class, for code that runs for each pod."""


_NO_KEY: Final = AssignmentKey("", "", "", "")


class PendingDetach(NamedTuple):
    """An identity that MIC attached to a host and that the object no longer represents. Both ids keep their
    spelling."""

    host: str
    identity: str


# No gc: thousands stay alive, form no cycles, and would be scanned by each collection.
class DesiredAssignment(msgspec.Struct, frozen=True, gc=False):
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
    def crosses_namespaces(self) -> bool:
        """Whether the identity is in another namespace than the pod. Such an assignment is written after those of the
        pod's own namespace: NMI prefers them, but knows only those that are written."""
        return self.identity.metadata.namespace != self.pod.metadata.namespace

    @property
    def node(self) -> str:
        return self.pod.spec.node_name

    @property
    def namespace(self) -> str:
        """The namespace of its AzureAssignedIdentity."""
        return self.identity.metadata.namespace if self.namespaced else "default"


# No gc, for the same reason.
class ExistingAssignment(msgspec.Struct, gc=False):
    """An AzureAssignedIdentity with its parsed content. Never change it.

    The content is parsed once: every event of the object and every index that contains it uses these values.
    """

    object: AzureAssignedIdentity
    key: Key = ("", "")
    assignment_key: AssignmentKey = _NO_KEY
    node: str = ""
    terminating: bool = False
    """Whether it has been revoked: NMI no longer serves it, and only MIC's finalizer keeps the object."""
    identity_id: UserAssignedIdentity | None = None
    """The identity on its host; None for service principals and malformed ids."""
    attached_by: AttachedBy = ""
    pending_detaches: tuple[PendingDetach, ...] = ()

    def __post_init__(self) -> None:
        meta, spec = self.object.metadata, self.object.spec
        identity, annotations = spec.azure_identity_ref, meta.annotations or {}
        of = identity.metadata
        self.key = (meta.namespace, meta.name)
        self.assignment_key = assignment_key((spec.pod_namespace, spec.pod, of.namespace, of.name))
        self.node = spec.nodename
        self.terminating = meta.deletion_timestamp is not None
        self.identity_id = user_assigned_id(identity)
        self.attached_by = _attached_by(annotations.get(ATTACHED_BY_ANNOTATION), self.object.status.status)
        if written := annotations.get(DETACH_PENDING_ANNOTATION):
            self.pending_detaches = tuple(_decode_pending_detaches(written))

    @property
    def released(self) -> bool:
        """Return whether it is terminating without MIC's finalizer: another finalizer keeps it, and MIC has nothing
        left to do for it."""
        return self.terminating and FINALIZER not in (self.object.metadata.finalizers or ())


def _attached_by(written: str | None, status: str) -> AttachedBy:
    """Return who attached the identity. The Go implementation wrote no such annotation: its Assigned objects count as
    MIC's."""
    if written == "mic":
        return "mic"
    if written == "foreign":
        return "foreign"
    return "mic" if status in {ASSIGNED, ""} else ""


def _decode_pending_detaches(written: str) -> Iterable[PendingDetach]:
    """Yield at most PENDING_DETACHES_MAX entries of the annotation; skip entries that are not a pair of ids."""
    if len(written) > PENDING_DETACHES_TEXT_MAX:
        return
    try:
        entries: Any = _JSON.decode(written)
    # Another client may have written it: what cannot be read counts as absent and must not end MIC.
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


def user_assigned_id(identity: AzureIdentity) -> UserAssignedIdentity | None:
    """Return the identity that hosts must have; None for service principals, federated identities and malformed ids."""
    return parse_user_assigned(identity.spec.resource_id) if identity.spec.type == IdentityType.USER_ASSIGNED else None


def misconfigured(identity: AzureIdentity) -> str:
    """Return why no pod can have this identity, as a sentence for its author, or an empty string."""
    spec = identity.spec
    if reason := oversized(identity):
        return reason
    if spec.type not in set(IdentityType):
        return f"spec.type {spec.type} is not 0, 1, 2 or 3, so this identity is ignored"
    if spec.type == IdentityType.USER_ASSIGNED and user_assigned_id(identity) is None:
        return (
            f"spec.resourceID {spec.resource_id[:256]!r} is not of the form /subscriptions/<subscription>/"
            "resourcegroups/<group>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>, "
            "so this identity is ignored"
        )
    return ""


def may_have_identities(pod: ScheduledPod) -> bool:
    """Return whether *pod* may have identities: it has the label and a node, has not finished and is no mirror pod."""
    return bool(pod.spec.node_name and pod.binding_label) and not pod.finished and not pod.mirror


def unchanged(desired: DesiredAssignment, existing: ExistingAssignment) -> bool:
    """Return whether the object agrees with the desired assignment, apart from its status.

    resourceVersion is not compared, so that writing a status or an annotation never triggers MIC itself. The Go
    implementation did not write the pod's uid: an absent uid agrees.
    """
    meta, spec = existing.object.metadata, existing.object.spec
    identity, binding = spec.azure_identity_ref, spec.azure_binding_ref
    pod, node = desired.pod.metadata, desired.node
    new_identity, new_binding = desired.identity, desired.binding
    annotations, labels = meta.annotations or {}, meta.labels or {}
    return (
        existing.assignment_key
        == (pod.namespace, pod.name, new_identity.metadata.namespace, new_identity.metadata.name)
        and meta.namespace == desired.namespace
        and annotations.get(POD_UID_ANNOTATION, "") in ("", pod.uid)
        and spec.nodename == node
        # NMI may watch only the objects of its node, by this label.
        and labels.get(NODENAME_LABEL, "") == nodename_label(node)
        # Without it the record of an attached identity ends before MIC has detached it.
        and FINALIZER in (meta.finalizers or ())
        and identity.metadata.uid in ("", new_identity.metadata.uid)
        # The first comparison avoids two copies for each object.
        and (identity.spec == new_identity.spec or _substance(identity.spec) == _substance(new_identity.spec))
        and (
            # A change of other annotations changes for no pod what it gets.
            identity.metadata.annotations == new_identity.metadata.annotations
            or all(
                identity.metadata.annotation(annotation) == new_identity.metadata.annotation(annotation)
                for annotation in (BEHAVIOR_ANNOTATION, EXCHANGE_ANNOTATION)
            )
        )
        and binding.metadata.name == new_binding.metadata.name
        and binding.metadata.namespace == new_binding.metadata.namespace
        and binding.metadata.uid in ("", new_binding.metadata.uid)
        and binding.spec == new_binding.spec
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
        # Without a recorded owner MIC could not decide later whether to detach the identity.
        and (desired.identity_id is None or existing.attached_by != "")
        and unchanged(desired, existing)
    )
