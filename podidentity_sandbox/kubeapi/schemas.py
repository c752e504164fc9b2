"""Validation of custom resources by the structural schema of their definition, without unknown fields. Pure.

Supported keywords of OpenAPI: type, nullable, properties, additionalProperties, items, required, enum, minimum,
maximum, minLength, maxLength, pattern, default, and the Kubernetes extensions preserve-unknown-fields,
embedded-resource and int-or-string. Others are ignored.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.statuses import Cause, Document, bad_request, invalid

Schema = Mapping[str, Any]

PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
EMBEDDED: Final = "x-kubernetes-embedded-resource"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_OBJECT_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata"})
_JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def check(resource: ResourceType, document: Document, *, strict: bool = False) -> None:
    """Prune, set defaults, and raise StatusError 422 for a violation, or with *strict* 400 for an unknown field."""
    for name in document.keys() - _OBJECT_FIELDS:
        # Nested values may be shared with the stored object.
        document[name] = copy.deepcopy(document[name])
    dropped: list[str] = []
    if resource.schema:
        _prune(resource.schema, document, "", dropped, is_object=True)
    if dropped and strict:
        listed = ", ".join(f'unknown field "{path}"' for path in dropped)
        raise bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"strict decoding error: {listed}"
        )
    causes: list[Cause] = []
    for name, schema in sorted((resource.schema.get("properties") or {}).items()):
        if name in document and name not in _OBJECT_FIELDS:
            _default(schema, document[name])
            _check(schema, document[name], name, causes)
    causes += [
        ("FieldValueRequired", "Required value", name)
        for name in resource.schema.get("required") or ()
        if name not in document
    ]
    if causes:
        raise invalid(resource.kind, resource.group, document["metadata"].get("name", ""), causes)


def _prune(schema: Schema, value: Any, path: str, dropped: list[str], *, is_object: bool = False) -> None:
    if isinstance(value, list):
        for at, item in enumerate(value):
            _prune(schema.get("items") or {}, item, f"{path}[{at}]", dropped)
    if not isinstance(value, dict):
        return
    properties = schema.get("properties") or {}
    more = schema.get("additionalProperties")
    whole = is_object or bool(schema.get(EMBEDDED))
    for name in list(value):
        place = f"{path}.{name}" if path else name
        if whole and name in _OBJECT_FIELDS:
            continue
        if name in properties:
            _prune(properties[name], value[name], place, dropped)
        elif isinstance(more, Mapping):
            _prune(more, value[name], place, dropped)
        elif not schema.get(PRESERVE) and not more:
            del value[name]
            dropped.append(place)


def _default(schema: Schema, value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _default(schema.get("items") or {}, item)
    if not isinstance(value, dict):
        return
    for name, inner in (schema.get("properties") or {}).items():
        if "default" in inner:
            value.setdefault(name, copy.deepcopy(inner["default"]))
        if name in value:
            _default(inner, value[name])


def _check(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    if value is None and schema.get("nullable"):
        return
    actual = _JSON_TYPES.get(type(value), "null")
    wanted = schema.get("type", "")
    fits = wanted in {"", actual} or (wanted == "number" and actual == "integer")
    if schema.get(INT_OR_STRING):
        fits = actual in {"integer", "string"}
    if not fits:
        message = f'Invalid value: "{actual}": {path} in body must be of type {wanted}: "{actual}"'
        causes.append(("FieldValueTypeInvalid", message, path))
        return
    _check_value(schema, value, path, causes)
    if isinstance(value, list):
        for at, item in enumerate(value):
            _check(schema.get("items") or {}, item, f"{path}[{at}]", causes)
    elif isinstance(value, dict):
        properties, more = schema.get("properties") or {}, schema.get("additionalProperties")
        for name in sorted(value):
            if name in properties:
                _check(properties[name], value[name], f"{path}.{name}", causes)
            elif isinstance(more, Mapping):
                _check(more, value[name], f"{path}.{name}", causes)


def _check_value(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{choice}"' for choice in schema["enum"])
        causes.append(("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {allowed}', path))
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", len(value)):
            message = f"Too long: may not be more than {schema['maxLength']} bytes"
            causes.append(("FieldValueTooLong", message, path))
        if len(value) < schema.get("minLength", 0):
            message = f'Invalid value: "{value}": {path} in body should be at least {schema["minLength"]} chars long'
            causes.append(("FieldValueInvalid", message, path))
        if "pattern" in schema and not re.search(schema["pattern"], value):
            message = f"Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"
            causes.append(("FieldValueInvalid", message, path))
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            message = f"Invalid value: {value}: {path} in body should be greater than or equal to {schema['minimum']}"
            causes.append(("FieldValueInvalid", message, path))
        if value > schema.get("maximum", value):
            message = f"Invalid value: {value}: {path} in body should be less than or equal to {schema['maximum']}"
            causes.append(("FieldValueInvalid", message, path))
    if isinstance(value, dict):
        causes.extend(
            ("FieldValueRequired", "Required value", f"{path}.{name}")
            for name in schema.get("required") or ()
            if name not in value
        )
