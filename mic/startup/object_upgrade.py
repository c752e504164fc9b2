"""Type upgrade of one object, and kinds whose old field names the API server drops. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from podidentity.old_field_names import fold
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    Kind,
)

KINDS: Final[tuple[Kind[Any], ...]] = (IDENTITIES, BINDINGS, EXCEPTIONS, ASSIGNED_IDENTITIES)
"""Kinds whose objects may have old field names, in the order of the upgrade."""

_EMBEDDED: Final[Mapping[str, Kind[Any]]] = {"azureIdentityRef": IDENTITIES, "azureBindingRef": BINDINGS}
_PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"


def with_current_names(kind: Kind[Any], document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return *document*, an object of *kind*, with the current field names; None if nothing changes.

    `kube.decoding` with old field names reads the same values before and after. Only the names change, with one
    exception: an embedded copy under its old name needed no apiVersion and kind, but under its current name
    the API server requires them.
    """
    present = fold(document, kind.shape)
    spec = present.get("spec")
    if kind is ASSIGNED_IDENTITIES and isinstance(spec, dict):
        present["spec"] = {name: _complete(name, value) for name, value in spec.items()}
    return present if present != document else None


def _complete(name: str, value: Any) -> Any:
    kind = _EMBEDDED.get(name)
    if kind is None or not isinstance(value, dict):
        return value
    return {"apiVersion": kind.api_version, "kind": kind.name} | value


class _Schema(msgspec.Struct, frozen=True):
    preserve: bool = msgspec.field(name=_PRESERVE, default=False)
    properties: dict[str, "_Schema"] = {}
    kinds: list[dict[str, Any]] = msgspec.field(name="x-kubernetes-group-version-kind", default_factory=list)


class _Components(msgspec.Struct, frozen=True):
    schemas: dict[str, _Schema] = {}


class _Description(msgspec.Struct, frozen=True):
    components: _Components = _Components()


_DESCRIPTION: Final = msgspec.json.Decoder(_Description)


def kinds_that_drop_old_names(described: bytes) -> list[Kind[Any]]:
    """Return the kinds whose old field names the API server drops, given its OpenAPI v3 description of the group.

    It drops fields that a schema does not name, on reads and on writes, unless the schema says otherwise. Fields
    without a readable description count as kept.
    """
    try:
        schemas = _DESCRIPTION.decode(described).components.schemas.values()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    specs = {
        (gvk.get("group"), gvk.get("version"), gvk.get("kind")): schema.properties.get("spec")
        for schema in schemas
        for gvk in schema.kinds
    }
    return [
        kind
        for kind in KINDS
        if (spec := specs.get((kind.group, kind.version, kind.name))) is not None and not spec.preserve
    ]
