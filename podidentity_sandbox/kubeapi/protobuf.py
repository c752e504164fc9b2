"""Protobuf bodies of the few documents that kubectl sends in no other form. Pure.

`kubectl create namespace|configmap|secret|serviceaccount|token`, `kubectl auth can-i` and `kubectl drain` encode their
requests in protobuf, and do not repeat them in JSON after a 415. Responses may always be JSON. Field numbers are from
the `generated.proto` files of k8s.io/api and k8s.io/apimachinery. An unknown field is refused unless it is empty.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from podidentity_sandbox.kubeapi.statuses import Document, bad_request

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: str = "string"
    """string, bytes, int, bool, message, or a map from strings: map-string, map-bytes."""
    message: "Mapping[int, _Field] | None" = None
    repeated: bool = False


_METADATA: Final = {
    1: _Field("name"),
    2: _Field("generateName"),
    3: _Field("namespace"),
    5: _Field("uid"),
    6: _Field("resourceVersion"),
    8: _Field("creationTimestamp", "ignored"),
    11: _Field("labels", "map-string"),
    12: _Field("annotations", "map-string"),
    14: _Field("finalizers", repeated=True),
    17: _Field("managedFields", "ignored"),
}
_OBJECT: Final = _Field("metadata", "message", _METADATA)
_BOUND: Final = {1: _Field("kind"), 2: _Field("apiVersion"), 3: _Field("name"), 4: _Field("uid")}
_TOKEN_SPEC: Final = {
    1: _Field("audiences", repeated=True),
    3: _Field("boundObjectRef", "message", _BOUND),
    4: _Field("expirationSeconds", "int"),
}
_ATTRIBUTES: Final = ("namespace", "verb", "group", "version", "resource", "subresource", "name")
_ACCESS: Final = {
    1: _Field("resourceAttributes", "message", {at: _Field(name) for at, name in enumerate(_ATTRIBUTES, 1)}),
    2: _Field("nonResourceAttributes", "message", {1: _Field("path"), 2: _Field("verb")}),
}
_MESSAGES: Final[Mapping[str, Mapping[int, _Field]]] = {
    "Namespace": {1: _OBJECT, 2: _Field("spec", "ignored"), 3: _Field("status", "ignored")},
    "ConfigMap": {
        1: _OBJECT,
        2: _Field("data", "map-string"),
        3: _Field("binaryData", "map-bytes"),
        4: _Field("immutable", "bool"),
    },
    "Secret": {
        1: _OBJECT,
        2: _Field("data", "map-bytes"),
        3: _Field("type"),
        4: _Field("stringData", "map-string"),
        5: _Field("immutable", "bool"),
    },
    "ServiceAccount": {1: _OBJECT, 4: _Field("automountServiceAccountToken", "bool")},
    "TokenRequest": {1: _OBJECT, 2: _Field("spec", "message", _TOKEN_SPEC), 3: _Field("status", "ignored")},
    "SelfSubjectAccessReview": {1: _OBJECT, 2: _Field("spec", "message", _ACCESS), 3: _Field("status", "ignored")},
    "SelfSubjectRulesReview": {
        1: _OBJECT,
        2: _Field("spec", "message", {1: _Field("namespace")}),
        3: _Field("status", "ignored"),
    },
    "DeleteOptions": {
        1: _Field("gracePeriodSeconds", "int"),
        2: _Field("preconditions", "message", {1: _Field("uid"), 2: _Field("resourceVersion")}),
        3: _Field("orphanDependents", "bool"),
        4: _Field("propagationPolicy"),
        5: _Field("dryRun", repeated=True),
    },
}
KINDS: Final = frozenset(_MESSAGES)
"""The kinds that `decode` accepts: those that kubectl sends as protobuf and that the server serves."""


def decode(data: bytes) -> Document:
    """Return the document in *data*, with its kind and apiVersion. Raise StatusError 400."""
    if not data.startswith(_MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix k8s")
    try:
        envelope = dict(_fields(data[len(_MAGIC) :]))
        named = {number: value.decode() for number, value in _fields(envelope.get(1, b"")) if isinstance(value, bytes)}
        kind = named.get(2, "")
        if kind not in _MESSAGES:
            raise bad_request(f"no protobuf form of kind {kind[:64]!r} is known here: send JSON")
        return {"apiVersion": named.get(1, ""), "kind": kind} | _message(envelope.get(2, b""), _MESSAGES[kind])
    except (IndexError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise bad_request("the body is not a protobuf message of a known kind") from error


def _message(data: Any, fields: Mapping[int, _Field]) -> Document:
    document: Document = {}
    for number, value in _fields(data):
        field = fields.get(number)
        if field is None:
            if value:
                raise bad_request(f"protobuf field {number} is not known here: send JSON")
            continue
        if field.type == "ignored":
            continue
        decoded = _value(value, field)
        if field.repeated:
            document.setdefault(field.name, []).append(decoded)
        elif field.type.startswith("map-"):
            document.setdefault(field.name, {}).update(decoded)
        elif decoded != "":  # an empty text is how a field that was not set is written
            document[field.name] = decoded
    return document


def _value(value: Any, field: _Field) -> Any:
    match field.type:
        case "string":
            return value.decode()
        case "bool":
            return bool(value)
        case "message":
            return _message(value, field.message or {})
        case "map-string" | "map-bytes":
            entry = dict(_fields(value))
            text = entry.get(2, b"")
            named = base64.b64encode(text).decode() if field.type == "map-bytes" else text.decode()
            return {entry.get(1, b"").decode(): named}
        case _:
            # A negative int64 is written as its two's complement.
            return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yield each field of a message as its number and its value: bytes, or an int."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if tag & 7 == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(tag & 7, len(data) + 1)
        if size > len(data) - at:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_VARINT_BYTES_MAX):
        byte = data[at + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("a number has no end")
