"""Limits on what the programs accept and keep of objects that tenants write. Pure.

The API server limits names, label keys and label values; it does not limit the number of labels, the length of a field
of a custom resource, or the number of owner references. `oversized` refuses an object with a field over a limit,
`reduced` drops the metadata that no program reads. `docs/operations.md` lists the limits.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    EXCHANGE_ANNOTATION,
    OBJECT_ID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentitySpec,
    AzurePodIdentityException,
    BareMeta,
    Meta,
    OwnerReference,
    Resource,
    ScheduledPod,
)

R = TypeVar("R", bound=Resource)

CLIENT_ID_MAX: Final = 256
"""Characters. A client id has 36."""
RESOURCE_ID_MAX: Final = 2048
"""Characters of `resourceID` and `adResourceID`. An Azure resource id has some hundreds."""
TENANT_ID_MAX: Final = 256
"""Characters of each tenant id. A GUID has 36, a domain name up to 253."""
AUXILIARY_TENANTS_MAX: Final = 32
ENDPOINT_MAX: Final = 2048
"""Characters of `adEndpoint`."""
NAME_MAX: Final = 253
"""Characters of an object's name, of a namespace and of a selector. The API server's own limit for names."""
POD_LABELS_MAX: Final = 64
"""Labels in `podLabels` of one exception, and labels of one identity or binding."""
LABEL_KEY_MAX: Final = 317
"""Characters: a prefix of 253, a slash, a name of 63."""
LABEL_VALUE_MAX: Final = 253
"""Characters. The API server takes 63; a longer value in an exception matches no pod."""
ANNOTATION_MAX: Final = 256
"""Characters of an annotation of an identity that a program reads."""
KEPT_LABELS_MAX: Final = 128
"""Labels that NMI keeps of one pod: by key, the first ones. An exception does not match a label beyond them."""
KEPT_OWNERS_MAX: Final = 16
"""Owner references that are kept of one object: controllers and Nodes before all others."""

READ_ANNOTATIONS: Final = (BEHAVIOR_ANNOTATION, OBJECT_ID_ANNOTATION, EXCHANGE_ANNOTATION)
"""The annotations of identities, bindings and exceptions that the daemons read."""


_LIMITED: Final = (AzureIdentity, AzureIdentityBinding, AzurePodIdentityException)


def oversized(resource: Resource) -> str:
    """Return why *resource* has a field over a limit, as a sentence for its author; empty if it has none.

    The sentence names the field, its size and the limit, never its content. An AzureAssignedIdentity always passes:
    MIC writes it, from an identity and a binding within their limits.
    """
    return next(_violations(resource), "") if isinstance(resource, _LIMITED) else ""


def _violations(resource: Resource) -> Iterator[str]:
    match resource:
        case AzureIdentity():
            yield from _identity_spec(resource.spec)
            for key in READ_ANNOTATIONS:
                yield from _text(f"the annotation {key}", resource.metadata.annotation(key), ANNOTATION_MAX)
            yield from _number("labels", resource.metadata.labels or (), POD_LABELS_MAX)
        case AzureIdentityBinding():
            yield from _text("spec.azureIdentity", resource.spec.azure_identity, NAME_MAX)
            yield from _text("spec.selector", resource.spec.selector, NAME_MAX)
            yield from _number("labels", resource.metadata.labels or (), POD_LABELS_MAX)
        case AzurePodIdentityException():
            yield from _labels("spec.podLabels", resource.spec.pod_labels or {})


def _identity_spec(spec: AzureIdentitySpec) -> Iterator[str]:
    yield from _text("spec.resourceID", spec.resource_id, RESOURCE_ID_MAX)
    yield from _text("spec.clientID", spec.client_id, CLIENT_ID_MAX)
    yield from _text("spec.tenantID", spec.tenant_id, TENANT_ID_MAX)
    yield from _text("spec.adResourceID", spec.ad_resource_id, RESOURCE_ID_MAX)
    yield from _text("spec.adEndpoint", spec.ad_endpoint, ENDPOINT_MAX)
    if spec.client_password is not None:
        yield from _text("spec.clientPassword.name", spec.client_password.name, NAME_MAX)
        yield from _text("spec.clientPassword.namespace", spec.client_password.namespace, NAME_MAX)
    tenants = spec.auxiliary_tenant_ids or ()
    yield from _number("spec.auxiliaryTenantIDs", tenants, AUXILIARY_TENANTS_MAX)
    for tenant in tenants:
        yield from _text("an entry of spec.auxiliaryTenantIDs", tenant, TENANT_ID_MAX)


def _labels(field: str, labels: Mapping[str, str]) -> Iterator[str]:
    yield from _number(field, labels, POD_LABELS_MAX)
    for key, value in labels.items():
        yield from _text(f"a key of {field}", key, LABEL_KEY_MAX)
        yield from _text(f"a value of {field}", value, LABEL_VALUE_MAX)


def _text(field: str, text: str, most: int) -> Iterator[str]:
    if len(text) > most:
        yield f"{field} has {len(text)} characters, and the limit is {most}, so this object is ignored"


def _number(field: str, entries: Collection[str], most: int) -> Iterator[str]:
    if len(entries) > most:
        yield f"{field} has {len(entries)} entries, and the limit is {most}, so this object is ignored"


def reduced(resource: R) -> R:
    """Return *resource* without the metadata that neither daemon reads; the same object if there is none.

    Of identities, bindings and exceptions the annotations outside READ_ANNOTATIONS and the finalizers are dropped. Of
    pods at most KEPT_LABELS_MAX labels are kept, of any object at most KEPT_OWNERS_MAX owner references.
    AzureAssignedIdentities keep their own metadata, which MIC writes back, but not that of the embedded copies.
    """
    match resource:
        case ScheduledPod():
            metadata = _pod_meta(resource.metadata)
        case AzureIdentity() | AzureIdentityBinding():
            metadata = _custom_meta(resource.metadata)
        case AzurePodIdentityException():
            metadata = msgspec.structs.replace(_custom_meta(resource.metadata), labels=None)
        case AzureAssignedIdentity():
            identity, binding = resource.spec.azure_identity_ref, resource.spec.azure_binding_ref
            kept = reduced(identity), reduced(binding)
            if kept[0] is identity and kept[1] is binding:
                return resource
            spec = msgspec.structs.replace(resource.spec, azure_identity_ref=kept[0], azure_binding_ref=kept[1])
            return msgspec.structs.replace(resource, spec=spec)
        case _:
            metadata = _owned_meta(resource.metadata)
    return resource if metadata is resource.metadata else msgspec.structs.replace(resource, metadata=metadata)


def _pod_meta(meta: BareMeta) -> BareMeta:
    meta = _owned_meta(meta)
    labels = meta.labels or {}
    if len(labels) <= KEPT_LABELS_MAX:
        return meta
    # The other labels must not displace the one that bindings select by.
    kept = {BINDING_LABEL, *sorted(labels)[:KEPT_LABELS_MAX]}
    return msgspec.structs.replace(meta, labels={key: value for key, value in labels.items() if key in kept})


def _custom_meta(meta: Meta) -> Meta:
    if not (meta.annotations or meta.finalizers or meta.owner_references):
        return meta
    kept = {key: value for key, value in (meta.annotations or {}).items() if key in READ_ANNOTATIONS} or None
    if kept != meta.annotations or meta.finalizers or meta.owner_references:
        return msgspec.structs.replace(meta, annotations=kept, finalizers=None, owner_references=None)
    return meta


def _owned_meta(meta: BareMeta) -> BareMeta:
    owners = meta.owner_references or ()
    if len(owners) <= KEPT_OWNERS_MAX:
        return meta
    # Many other owners must not hide a Node, which makes this a mirror pod.
    kept = sorted(owners, key=_is_ordinary)[:KEPT_OWNERS_MAX]
    return msgspec.structs.replace(meta, owner_references=kept)


def _is_ordinary(owner: OwnerReference) -> bool:
    return not (owner.controller or owner.kind == "Node")
