"""The types of the fields that the server reads. A document with other types is rejected. Pure.

The real server decodes built-in kinds into typed values and rejects other values. Here a document stays as it was
received, and only the fields that the emulator reads must have their types. Null means absent.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.statuses import Document, bad_request, unreadable_patch


class _Exact(NamedTuple):
    """A field that must not be null, and that must exist if it is *required*."""

    type: Any
    required: bool = False


class _JsonSchema(msgspec.Struct, kw_only=True, rename="camel"):
    type: str | None = None
    properties: "dict[str, _JsonSchema] | None" = None
    items: "_JsonSchema | None" = None
    additional_properties: "bool | _JsonSchema | None" = None
    required: list[str] | None = None
    enum: list[Any] | None = None
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None


class _Base64:
    """Bytes as text in base64."""


_TEXTS: Final = dict[str, str | None]
_BINARIES: Final = dict[str, _Base64 | None]
_REQUIRED_TEXT: Final = _Exact(str, required=True)
_CONDITIONS: Final = [{"type": str, "status": str}]
_ADDRESSES: Final = [{"ip": str}]
_CONTAINERS: Final = [{"name": str, "image": str, "ports": [{"containerPort": int}]}]
_ANY: Final = {
    "kind": str,
    "apiVersion": str,
    "metadata": {
        "name": str,
        "namespace": str,
        "generateName": str,
        "uid": str,
        "resourceVersion": str,
        "labels": dict[str, str],
        "annotations": dict[str, str],
        "finalizers": [str],
    },
}
_VERSION: Final = {
    "name": _REQUIRED_TEXT,
    "served": _Exact(bool),
    "storage": _Exact(bool),
    "schema": {"openAPIV3Schema": _JsonSchema},
    "subresources": dict[str, Any],
    "additionalPrinterColumns": [
        {"name": _REQUIRED_TEXT, "type": _REQUIRED_TEXT, "jsonPath": _REQUIRED_TEXT, "priority": _Exact(int)}
    ],
    "selectableFields": [{"jsonPath": _REQUIRED_TEXT}],
}
_NAMES: Final = {
    "plural": str,
    "singular": str,
    "kind": str,
    "listKind": str,
    "shortNames": [str],
    "categories": [str],
}
_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "pods": {
        "spec": {
            "nodeName": str,
            "serviceAccountName": str,
            "terminationGracePeriodSeconds": int,
            "containers": _CONTAINERS,
            "initContainers": _CONTAINERS,
            "tolerations": [{"key": str}],
        },
        "status": {
            "phase": str,
            "reason": str,
            "podIP": str,
            "podIPs": _ADDRESSES,
            "conditions": _CONDITIONS,
            "containerStatuses": [
                {
                    "ready": bool,
                    "restartCount": _Exact(int),
                    "state": {"waiting": dict[str, Any], "terminated": dict[str, Any]},
                }
            ],
        },
    },
    "nodes": {
        "spec": {"providerID": str, "unschedulable": bool},
        "status": {
            "addresses": [{"type": str, "address": str}],
            "conditions": _CONDITIONS,
            "nodeInfo": _TEXTS,
        },
    },
    "namespaces": {"spec": dict[str, Any], "status": {"phase": str}},
    "events": {
        "involvedObject": _TEXTS,
        "source": _TEXTS,
        "count": int,
        "type": str,
        "reason": str,
        "message": str,
    },
    "configmaps": {"data": _TEXTS, "binaryData": _BINARIES},
    "secrets": {"data": _BINARIES, "stringData": _TEXTS, "type": str},
    "endpoints": {"subsets": [{"addresses": _ADDRESSES, "ports": [{"port": int}]}]},
    "leases.coordination.k8s.io": {
        "spec": {"holderIdentity": str, "leaseDurationSeconds": int, "leaseTransitions": int}
    },
    "TokenRequest": {
        "spec": {
            "audiences": [str],
            "expirationSeconds": int,
            "boundObjectRef": {"kind": str, "apiVersion": str, "name": str, "uid": str},
        }
    },
    "customresourcedefinitions.apiextensions.k8s.io": {
        "spec": {"group": str, "scope": str, "names": _NAMES, "versions": [_VERSION]}
    },
}
"""The fields of each kind in addition to those of every kind: a type, a list of the type of its items, or an object."""


def _type(fields: Any) -> Any:
    if isinstance(fields, list):
        return list[_type(fields[0])]  # type: ignore[misc]
    if not isinstance(fields, Mapping):
        return fields
    entries: list[Any] = []
    for name, inner in fields.items():
        if not isinstance(inner, _Exact):
            entries.append((name, _type(inner) | None, None))
        else:
            entries.append((name, inner.type) if inner.required else (name, inner.type, inner.type()))
    return msgspec.defstruct("Fields", entries, kw_only=True)


_ANY_TYPE: Final = _type(_ANY)
_TYPES: Final = {name: _type({**_ANY, **fields}) for name, fields in _FIELDS.items()}


def check(resource: ResourceType, document: Document, *, patched: bool = False) -> None:
    """Refuse a document whose types do not fit: with 400 as it came, with 422 if a patch made it so."""
    _convert(resource.kind, resource.version, document, _TYPES.get(resource.name, _ANY_TYPE), patched=patched)


def check_token_request(request: Document) -> None:
    """Refuse a TokenRequest whose types do not fit with 400."""
    _convert("TokenRequest", "v1", request, _TYPES["TokenRequest"])


def base64_bytes(text: str) -> bytes:
    """Return the bytes that *text* encodes, which may contain line breaks. Raise msgspec.ValidationError."""
    return msgspec.convert(text.replace("\r", "").replace("\n", ""), bytes)


def _decode_base64(_: type, value: Any) -> _Base64:
    base64_bytes(msgspec.convert(value, str))
    return _Base64()


def _convert(kind: str, version: str, document: Document, fields: Any, *, patched: bool = False) -> None:
    try:
        msgspec.convert(document, fields, dec_hook=_decode_base64)
    except msgspec.ValidationError as error:
        if patched:
            raise unreadable_patch(str(error)) from error
        raise bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {error}') from error
