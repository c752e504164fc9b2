"""AzureAssignedIdentities as written: names, whole documents, and the patches that change one in place. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from itertools import chain, count
from typing import Any, Final, TypeAlias

import msgspec

from mic.decisions.assignments import (
    DETACH_PENDING_ANNOTATION,
    AssignmentKey,
    AttachedBy,
    DesiredAssignment,
    ExistingAssignment,
    Key,
    PendingDetach,
    encode_pending_detaches,
)
from podidentity.object_limits import READ_ANNOTATIONS
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    ATTACHED_BY_ANNOTATION,
    BINDINGS,
    CREATED,
    FINALIZER,
    IDENTITIES,
    MESSAGE_ANNOTATION,
    NODENAME_LABEL,
    POD_UID_ANNOTATION,
    AzureIdentity,
    AzureIdentityBinding,
    Kind,
    nodename_label,
)

Document: TypeAlias = dict[str, Any]
Operations: TypeAlias = list[dict[str, Any]]

NAME_MAX: Final = 253
"""The API server's limit for the name of a custom resource's object."""
MESSAGE_MAX: Final = 1024
"""Messages quote Azure; all annotations of an object together may hold 256 KiB, and people read the first line."""


def plain_name(key: AssignmentKey) -> str:
    """The reference's name for the claim's object: ambiguous, and sometimes longer than the API server takes."""
    return f"{key.pod}-{key.pod_namespace}-{key.identity}"


def distinct_name(key: AssignmentKey, again: int = 0) -> str:
    """A name that is the claim's alone: the plain one, cut where needed, and ten hex digits of the four parts. With
    *again* another one, for a claim whose earlier objects still have it."""
    parts = (key.pod, key.pod_namespace, key.identity, key.identity_namespace, *([str(again)] if again else ()))
    # No part can contain the separator, so no two claims are hashed alike.
    digest = sha256("/".join(parts).encode()).hexdigest()[:10]
    return f"{plain_name(key)[: NAME_MAX - len(digest) - 1].rstrip('-.')}-{digest}"


def free_name(desired: DesiredAssignment, taken: Callable[[Key], bool]) -> str:
    """The name for a new object, given which names are *taken* (by another claim, or by an object still going).

    There is always one: an object that goes may be the record by which MIC knows the identity on the host for its own,
    and stay until another object has that record.
    """
    candidates = chain(
        [plain_name(desired.assignment_key)], (distinct_name(desired.assignment_key, again) for again in count())
    )
    return next(name for name in candidates if len(name) <= NAME_MAX and not taken((desired.namespace, name)))


def embedded(kind: Kind[Any], resource: AzureIdentity | AzureIdentityBinding) -> Document:
    """*resource* as an embedded object: its spec, the annotations that decide who is served, and nothing else of the
    metadata that its author writes, since one object for each pod has the copy.

    Also its resourceVersion, by which the reference tells whether a copy is up to date: without it, a reference that
    takes over sets every object back to Created, and pods get no tokens meanwhile. MIC itself never compares it.
    """
    meta = resource.metadata
    metadata: Document = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
    if meta.resource_version:
        metadata["resourceVersion"] = meta.resource_version
    if isinstance(resource, AzureIdentity):
        read = {key: meta.annotation(key) for key in READ_ANNOTATIONS}
        if annotations := {key: value for key, value in read.items() if value}:
            metadata["annotations"] = annotations
    spec: Document = msgspec.to_builtins(resource.spec)
    if isinstance(resource, AzureIdentity):
        spec["type"] = resource.spec.type  # zero is a default, but people read these objects
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}


def spec_for(desired: DesiredAssignment) -> Document:
    """The spec of the object that stands for *want*."""
    return {
        "azureIdentityRef": embedded(IDENTITIES, desired.identity),
        "azureBindingRef": embedded(BINDINGS, desired.binding),
        "pod": desired.pod.metadata.name,
        "podNamespace": desired.pod.metadata.namespace,
        "nodename": desired.node,
    }


def annotations_for(
    desired: DesiredAssignment, attached_by: AttachedBy, pending_detaches: Iterable[PendingDetach] = ()
) -> dict[str, str]:
    """Ours, without those that would be empty."""
    pending_detaches = tuple(pending_detaches)
    ours = {
        POD_UID_ANNOTATION: desired.pod.metadata.uid,
        ATTACHED_BY_ANNOTATION: attached_by,
        DETACH_PENDING_ANNOTATION: encode_pending_detaches(pending_detaches) if pending_detaches else "",
    }
    return {key: value for key, value in ours.items() if value}


def new_document(desired: DesiredAssignment, name: str, status: str, attached_by: AttachedBy) -> Document:
    """The whole object for *want*, as it is created."""
    return {
        "apiVersion": ASSIGNED_IDENTITIES.api_version,
        "kind": ASSIGNED_IDENTITIES.name,
        "metadata": {
            "name": name,
            "namespace": desired.namespace,
            "labels": {NODENAME_LABEL: nodename_label(desired.node)},
            "annotations": annotations_for(desired, attached_by),
            "finalizers": [FINALIZER],
        },
        "spec": spec_for(desired),
        "status": _status(status),
    }


def update_operations(
    existing: ExistingAssignment,
    desired: DesiredAssignment,
    status: str,
    attached_by: AttachedBy,
    pending_detaches: Iterable[PendingDetach],
) -> Operations:
    """The JSON patch that makes *held* stand for *want*; refused where the object has changed meanwhile."""
    meta = existing.object.metadata
    ours = (POD_UID_ANNOTATION, ATTACHED_BY_ANNOTATION, DETACH_PENDING_ANNOTATION, MESSAGE_ANNOTATION)
    others = {key: value for key, value in (meta.annotations or {}).items() if key not in ours}
    finalizers = list(dict.fromkeys([*(meta.finalizers or ()), FINALIZER]))
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {
            "op": "add",
            "path": "/metadata/labels",
            "value": {**(meta.labels or {}), NODENAME_LABEL: nodename_label(desired.node)},
        },
        {
            "op": "add",
            "path": "/metadata/annotations",
            "value": others | annotations_for(desired, attached_by, pending_detaches),
        },
        {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
        # Whole, so that nothing of the older spec (a secret's name, an old spelling) stays behind.
        {"op": "add", "path": "/spec", "value": spec_for(desired)},
        {"op": "add", "path": "/status", "value": _status(status)},
    ]


def status_operations(existing: ExistingAssignment, status: str, annotations: Mapping[str, str | None]) -> Operations:
    """The JSON patch that sets the status and changes *annotations* (None removes one)."""
    return [*_same(existing), _status_operation(existing, status), *_annotation_operations(existing, annotations)]


def annotation_operations(existing: ExistingAssignment, annotations: Mapping[str, str | None]) -> Operations:
    """The JSON patch that changes *annotations* alone."""
    return [*_same(existing), *_annotation_operations(existing, annotations)]


def explain_operations(existing: ExistingAssignment, message: str) -> Operations:
    """The JSON patch that says why *held* is, or is again, only Created."""
    return status_operations(existing, CREATED, {MESSAGE_ANNOTATION: message})


def pending_detach_operations(existing: ExistingAssignment, pending_detaches: Collection[PendingDetach]) -> Operations:
    """The JSON patch that leaves exactly *debts* owed; refused where others have been written down meanwhile."""
    path = f"/metadata/annotations/{_pointer(DETACH_PENDING_ANNOTATION)}"
    owed = {DETACH_PENDING_ANNOTATION: encode_pending_detaches(pending_detaches) if pending_detaches else None}
    return [
        *_same(existing),
        {"op": "test", "path": path, "value": existing.object.metadata.annotation(DETACH_PENDING_ANNOTATION)},
        *_annotation_operations(existing, owed),
    ]


def release_operations(existing: ExistingAssignment, status: str) -> Operations:
    """The JSON patch that says it is over and takes our finalizer off: with it, the object goes."""
    rest = [name for name in existing.object.metadata.finalizers or () if name != FINALIZER]
    return [
        *_same(existing),
        {"op": "test", "path": "/metadata/finalizers", "value": existing.object.metadata.finalizers or []},
        _status_operation(existing, status),
        {"op": "replace", "path": "/metadata/finalizers", "value": rest},
    ]


def _same(existing: ExistingAssignment) -> Operations:
    return [{"op": "test", "path": "/metadata/uid", "value": existing.object.metadata.uid}]


def _status(status: str) -> Document:
    # One replica is what the reference writes; its own programs never read it.
    return {"status": status, "availableReplicas": 1}


def _status_operation(existing: ExistingAssignment, status: str) -> dict[str, Any]:
    before = existing.object.status
    if before.status:
        return {"op": "replace", "path": "/status/status", "value": status}
    # An object that somebody wrote without any status has no /status to replace a part of.
    return {"op": "add", "path": "/status", "value": _status(status)}


def _annotation_operations(existing: ExistingAssignment, annotations: Mapping[str, str | None]) -> Operations:
    before = existing.object.metadata.annotations
    set_ = {key: value for key, value in annotations.items() if value is not None}
    gone = [key for key, value in annotations.items() if value is None and before and key in before]
    if before is None:
        return [{"op": "add", "path": "/metadata/annotations", "value": set_}] if set_ else []
    return [
        *({"op": "add", "path": f"/metadata/annotations/{_pointer(key)}", "value": set_[key]} for key in set_),
        *({"op": "remove", "path": f"/metadata/annotations/{_pointer(key)}"} for key in gone),
    ]


def _pointer(key: str) -> str:
    """*key* as one part of a JSON pointer (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")
