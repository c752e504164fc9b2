"""Fields of custom resources under their names from before v1.6.0: `ClientID`, `clientid`, … for clientID. Pure.

The programs read the current names only, as do admission policies and the Go implementation. MIC also reads the old
ones until its type upgrade is recorded, and both programs do with --read-old-field-names.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, get_args

import msgspec

from podidentity.resources import BareMeta, Spec, Wire


class CustomResourceField(NamedTuple):
    """A field of a custom resource."""

    present: str
    """Current name."""
    read: type[Wire] | None
    """Struct of its value, if that has fields."""
    shape: type[Wire] | None
    """Struct of its value, if those fields have old field names, too. Metadata has none."""


@cache
def fields_by_name(shape: type[Wire]) -> Mapping[str, CustomResourceField]:
    """Return the fields of *shape* by their current names and by those in lower case."""
    fields = [_field(field.encode_name, field.type) for field in msgspec.structs.fields(shape)]
    return {name: field for field in fields for name in (field.present, field.present.lower())}


@cache
def _folded(shape: type[Wire]) -> Mapping[str, CustomResourceField]:
    """Return the fields of *shape*, and those that every spec may have and that are ignored."""
    unread = ("metadata", "replicas") if issubclass(shape, Spec) else ()
    return {**fields_by_name(shape), **{name: CustomResourceField(name, None, None) for name in unread}}


def _field(name: str, annotation: Any) -> CustomResourceField:
    parts = (annotation, *get_args(annotation))
    read = next((part for part in parts if isinstance(part, type) and issubclass(part, Wire)), None)
    return CustomResourceField(name, read, None if read is None or issubclass(read, BareMeta) else read)


def fold(document: Mapping[str, Any], shape: type[Wire]) -> dict[str, Any]:
    """Return *document*, of type *shape*, with every known field under its current name; the rest is unchanged.

    A field under its current name takes precedence over one under an old name unless it is null; a field under an old
    name with null is dropped. Metadata, the label map of an exception and unknown fields are user content and stay as
    they are.
    """
    fields = _folded(shape)
    folded: dict[str, Any] = {}
    for name, value in document.items():
        field = fields.get(name) or fields.get(name.lower())
        present, inner = (field.present, field.shape) if field is not None else (name, None)
        if name != present and (value is None or document.get(present) is not None):
            continue
        if value is None and present in folded:
            continue
        folded[present] = fold(value, inner) if inner is not None and isinstance(value, dict) else value
    return folded


def old_fields(document: Mapping[str, Any], shape: type[Wire], path: str = "") -> Iterator[str]:
    """Yield the path of each field with an old name in *document*, of type *shape*, as spelled; not those with null,
    and none below such a field.
    """
    fields = _folded(shape)
    for name, value in document.items():
        if value is None:
            continue
        if (field := fields.get(name)) is None or field.present != name:
            if name.lower() in fields:
                yield f"{path}{name}"
        elif field.shape is not None and isinstance(value, dict):
            yield from old_fields(value, field.shape, f"{path}{name}.")
