"""Desired and existing assignments, and their comparison. Pure.

An *assignment* is one pod's use of one identity. Pods, bindings and identities define the `DesiredAssignment`; an
`ExistingAssignment` is an AzureAssignedIdentity. An assignment is in sync when exactly one active object agrees with
the desired assignment and its status is Assigned.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
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
    Pod,
    SecretReference,
    nodename_label,
)

DETACH_PENDING_ANNOTATION: Final = "aadpodidentity.k8s.io/detach-pending"
"""Names what this object once stood for and MIC has yet to take off: `[[host id, identity id], …]`. So an update in
place (the pod moved, the identity got another resource id) keeps the record of ownership until the detach is done."""

PENDING_DETACHES_MAX: Final = 64
"""Entries of that annotation that are read. MIC adds one when a pod moves or an identity changes, and removes it when
the host is clean."""
PENDING_DETACHES_TEXT_MAX: Final = 64 * 1024
"""Characters of that annotation; a longer one, which MIC does not write, is ignored. An entry has about 350."""

_JSON: Final = msgspec.json.Decoder()

AttachedBy: TypeAlias = Literal["mic", "foreign", ""]
"""Who put the identity on the host, or empty: not decided yet."""

Key: TypeAlias = tuple[str, str]
"""Namespace and name of an object."""


class AssignmentKey(NamedTuple):
    """The four parts that tell one claim from every other."""

    pod_namespace: str
    pod: str
    identity_namespace: str
    identity: str


class PendingDetach(NamedTuple):
    """An identity that MIC put on a host and that the object naming it no longer stands for. Both ids as spelled."""

    host: str
    identity: str


@dataclass(frozen=True, slots=True)
class DesiredAssignment:
    """A live, scheduled pod's need of one identity, through one binding."""

    pod: Pod
    binding: AzureIdentityBinding
    identity: AzureIdentity
    identity_id: UserAssignedIdentity | None
    """What has to be on the pod's host; None for service principals, which Azure does not attach to anything."""
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
        """Where its AzureAssignedIdentity belongs."""
        return self.identity.metadata.namespace if self.namespaced else "default"


@dataclass(frozen=True)
class ExistingAssignment:
    """An AzureAssignedIdentity with what it says, read once."""

    object: AzureAssignedIdentity

    @property
    def key(self) -> Key:
        return self.object.key

    @cached_property
    def assignment_key(self) -> AssignmentKey:
        spec = self.object.spec
        identity = spec.azure_identity_ref.metadata
        return AssignmentKey(spec.pod_namespace, spec.pod, identity.namespace, identity.name)

    @cached_property
    def identity_id(self) -> UserAssignedIdentity | None:
        """What it put, or has yet to put, on its host; None for service principals and malformed ids."""
        spec = self.object.spec.azure_identity_ref.spec
        return parse_user_assigned(spec.resource_id) if spec.type == IdentityType.USER_ASSIGNED else None

    @property
    def node(self) -> str:
        return self.object.spec.nodename

    @property
    def terminating(self) -> bool:
        """Whether it has been revoked: NMI serves it no more, and only our finalizer holds it."""
        return self.object.metadata.deletion_timestamp is not None

    @property
    def released(self) -> bool:
        """Whether it is dying and ours no more: another's finalizer holds it, and what it stood for is settled."""
        return self.terminating and FINALIZER not in (self.object.metadata.finalizers or ())

    @property
    def attached_by(self) -> AttachedBy:
        """Who put the identity there. The reference wrote no such annotation: what it left Assigned counts as MIC's."""
        written = self.object.metadata.annotation(ATTACHED_BY_ANNOTATION)
        if written == "mic":
            return "mic"
        if written == "foreign":
            return "foreign"
        return "mic" if self.object.status.status in {ASSIGNED, ""} else ""

    @cached_property
    def pending_detaches(self) -> tuple[PendingDetach, ...]:
        written = self.object.metadata.annotation(DETACH_PENDING_ANNOTATION)
        return tuple(_decode_pending_detaches(written)) if written else ()


def _decode_pending_detaches(written: str) -> Iterable[PendingDetach]:
    """The first DEBTS_MAX debts in the annotation; entries that are no pair of ids are ignored."""
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
    """What `Held.debts` reads."""
    return json.dumps([list(pending_detach) for pending_detach in pending_detaches], separators=(",", ":"))


def misconfigured(identity: AzureIdentity) -> str:
    """Why no pod can have this identity, as a sentence for the person who wrote it, or an empty string."""
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


def may_have_identities(pod: Pod) -> bool:
    """Whether *pod* may have identities: it has the label, is on a node, has not finished and is no mirror pod."""
    return bool(pod.binding_label and pod.spec.node_name) and not pod.finished and not pod.mirror


def unchanged(desired: DesiredAssignment, existing: ExistingAssignment) -> bool:
    """Whether the object still says what is wanted, its status aside.

    resourceVersion plays no part, so that no status or annotation that is written makes MIC act on itself. What the
    reference did not write (the pod's uid) is taken to agree.
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
        and _substance(identity.spec) == _substance(desired.identity.spec)
        and identity.metadata.annotation(BEHAVIOR_ANNOTATION)
        == desired.identity.metadata.annotation(BEHAVIOR_ANNOTATION)
        and binding.key == desired.binding.key
        and binding.metadata.uid in {"", desired.binding.metadata.uid}
        and binding.spec == desired.binding.spec
    )


def _substance(spec: AzureIdentitySpec) -> AzureIdentitySpec:
    """*spec* without the difference between absent and empty: the reference writes `{}` and `[]` into its copies."""
    return msgspec.structs.replace(
        spec,
        client_password=spec.client_password if spec.client_password != SecretReference() else None,
        auxiliary_tenant_ids=spec.auxiliary_tenant_ids or None,
    )


def in_sync(desired: DesiredAssignment | None, active: Collection[ExistingAssignment]) -> bool:
    """Whether nothing is left to do for a claim, given the objects that stand for it and are not being deleted."""
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
