"""AzureAssignedIdentities as MIC writes them: names, whole documents, and JSON patches. Pure."""

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
APPLY_ERROR: Final = "binding apply error"
"""Reason of the Event for an identity that is not assigned, spelled as in the Go implementation."""
MESSAGE_MAX: Final = 1024
"""Limit of a message, which may quote Azure. All annotations of an object together may have 256 KiB."""


def plain_name(key: AssignmentKey) -> str:
    """Return the Go implementation's name for the object: ambiguous, and sometimes longer than the API server
    allows."""
    return f"{key.pod}-{key.pod_namespace}-{key.identity}"


def distinct_name(key: AssignmentKey, again: int = 0) -> str:
    """Return a name that no other assignment has: the plain one, cut if necessary, and ten hex digits of a hash of the
    four parts. *again* selects further names for an assignment whose earlier objects still have this one."""
    parts = (key.pod, key.pod_namespace, key.identity, key.identity_namespace, *([str(again)] if again else ()))
    # No part can contain the separator, so no two assignments have one digest input.
    digest = sha256("/".join(parts).encode()).hexdigest()[:10]
    # The API server refuses a name with a dot next to a hyphen, which the cut can leave.
    return f"{plain_name(key)[: NAME_MAX - len(digest) - 1].rstrip('-.')}-{digest}"


def free_name(desired: DesiredAssignment, taken: Callable[[Key], bool]) -> str:
    """Return the name for a new object. *taken* reports names of other assignments and of terminating objects.

    There is always a free name. A terminating object may be MIC's only record that it attached the identity, and then
    stays until another object has that record.
    """
    candidates = chain(
        [plain_name(desired.assignment_key)], (distinct_name(desired.assignment_key, again) for again in count())
    )
    return next(name for name in candidates if len(name) <= NAME_MAX and not taken((desired.namespace, name)))


def embedded(kind: Kind[Any], resource: AzureIdentity | AzureIdentityBinding) -> Document:
    """Return *resource* as an embedded object: its spec and the annotations that decide which pods are served. No other
    metadata of its author is copied, because each pod's object contains a copy.

    The copy has the resourceVersion, by which the Go implementation checks that a copy is up to date. Without it, a Go
    MIC that takes over would set every object back to Created, and pods would get no tokens until it is done. MIC
    itself never compares it.
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
        spec["type"] = resource.spec.type  # zero is the default, but operators read these objects
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}


def spec_for(desired: DesiredAssignment) -> Document:
    """Return the spec of the object for *desired*."""
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
    """Return MIC's annotations, without empty ones."""
    pending_detaches = tuple(pending_detaches)
    ours = {
        POD_UID_ANNOTATION: desired.pod.metadata.uid,
        ATTACHED_BY_ANNOTATION: attached_by,
        DETACH_PENDING_ANNOTATION: encode_pending_detaches(pending_detaches) if pending_detaches else "",
    }
    return {key: value for key, value in ours.items() if value}


def new_document(desired: DesiredAssignment, name: str, status: str, attached_by: AttachedBy) -> Document:
    """Return the whole object for *desired*, for its creation."""
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
    """Return the JSON patch that updates *existing* in place to *desired*. It fails if the object has changed since."""
    meta = existing.object.metadata
    # With the message, which explains the object's earlier content.
    ours = (POD_UID_ANNOTATION, ATTACHED_BY_ANNOTATION, DETACH_PENDING_ANNOTATION, MESSAGE_ANNOTATION)
    # The patch replaces all annotations, and those of other clients must stay.
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
        # The whole spec, so that no part of the older one (a secret's name, an old field name) remains.
        {"op": "add", "path": "/spec", "value": spec_for(desired)},
        {"op": "add", "path": "/status", "value": _status(status)},
    ]


def status_operations(existing: ExistingAssignment, status: str, annotations: Mapping[str, str | None]) -> Operations:
    """Return the JSON patch that sets the status and changes *annotations* (None removes one)."""
    return [*_same(existing), _status_operation(existing, status), *_annotation_operations(existing, annotations)]


def annotation_operations(existing: ExistingAssignment, annotations: Mapping[str, str | None]) -> Operations:
    """Return the JSON patch that changes *annotations* only."""
    return [*_same(existing), *_annotation_operations(existing, annotations)]


def explain_operations(existing: ExistingAssignment, message: str) -> Operations:
    """Return the JSON patch that sets the status Created and records the reason."""
    return status_operations(existing, CREATED, {MESSAGE_ANNOTATION: message})


def pending_detach_operations(existing: ExistingAssignment, pending_detaches: Collection[PendingDetach]) -> Operations:
    """Return the JSON patch that leaves exactly *pending_detaches*. It fails if others have been recorded since."""
    path = f"/metadata/annotations/{_pointer(DETACH_PENDING_ANNOTATION)}"
    annotations = {DETACH_PENDING_ANNOTATION: encode_pending_detaches(pending_detaches) if pending_detaches else None}
    return [
        *_same(existing),
        {"op": "test", "path": path, "value": existing.object.metadata.annotation(DETACH_PENDING_ANNOTATION)},
        *_annotation_operations(existing, annotations),
    ]


def release_operations(existing: ExistingAssignment, status: str) -> Operations:
    """Return the JSON patch that sets the status and removes MIC's finalizer, whereupon the API server deletes the
    object."""
    rest = [name for name in existing.object.metadata.finalizers or () if name != FINALIZER]
    return [
        *_same(existing),
        # The list is written as a whole: another client's new finalizer must not be lost.
        {"op": "test", "path": "/metadata/finalizers", "value": existing.object.metadata.finalizers or []},
        _status_operation(existing, status),
        {"op": "replace", "path": "/metadata/finalizers", "value": rest},
    ]


def _same(existing: ExistingAssignment) -> Operations:
    # Not the version: other clients' changes do not matter, but another object of that name does.
    return [{"op": "test", "path": "/metadata/uid", "value": existing.object.metadata.uid}]


def _status(status: str) -> Document:
    # The Go implementation writes one replica; no program reads it.
    return {"status": status, "availableReplicas": 1}


def _status_operation(existing: ExistingAssignment, status: str) -> dict[str, Any]:
    before = existing.object.status
    if before.status:
        return {"op": "replace", "path": "/status/status", "value": status}
    # Another client may have written the object without a status, so that /status does not exist.
    return {"op": "add", "path": "/status", "value": _status(status)}


def _annotation_operations(existing: ExistingAssignment, annotations: Mapping[str, str | None]) -> Operations:
    before = existing.object.metadata.annotations
    set_ = {key: value for key, value in annotations.items() if value is not None}
    # `remove` without such a member would fail the whole patch (RFC 6902 §4.2).
    gone = [key for key, value in annotations.items() if value is None and before and key in before]
    if before is None:
        # `add` of one annotation would fail without this map (RFC 6902 §4.1).
        return [{"op": "add", "path": "/metadata/annotations", "value": set_}] if set_ else []
    return [
        *({"op": "add", "path": f"/metadata/annotations/{_pointer(key)}", "value": set_[key]} for key in set_),
        *({"op": "remove", "path": f"/metadata/annotations/{_pointer(key)}"} for key in gone),
    ]


def _pointer(key: str) -> str:
    """Return *key* as one part of a JSON pointer (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")
