"""From the API server's bytes to our projections. Pure: no I/O, no clock.

A list is taken apart in two steps, so that a caller can decode it in slices and let the loop breathe in between:
`split_list` finds where each object begins and ends, `decode_object` reads one.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Generic, TypeVar

import msgspec

from podidentity.kube.errors import ApiError, Status, from_status
from podidentity.resources import Kind, Resource, fold

R = TypeVar("R", bound=Resource)


class Malformed(Exception):  # noqa: N818 - named for what happened
    """Bytes that are not what the API server's protocol, or the kind's schema, says they should be."""


class ListPage(msgspec.Struct, Generic[R], frozen=True):
    """One page of a list. `continue_token` is empty on the last page."""

    items: list[R]
    resource_version: str
    continue_token: str


class RawPage(msgspec.Struct, frozen=True):
    """One page of a list with its objects still undecoded; they share the page's memory."""

    items: list[msgspec.Raw]
    resource_version: str
    continue_token: str
    first: bool = True
    """The list begins here, perhaps anew."""


class WatchEvent(msgspec.Struct, Generic[R], frozen=True):
    """One line of a watch.

    `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR. `object` is None for the last two, and for an object of the
    right kind whose content cannot be read; then `key` still says which one it was. `error` is set for ERROR only.
    """

    type: str
    object: R | None
    resource_version: str
    error: ApiError | None = None
    key: tuple[str, str] = ("", "")


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Envelope(msgspec.Struct):
    type: str
    object: msgspec.Raw


_LIST: Final = msgspec.json.Decoder(_List)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_RESOURCE: Final = msgspec.json.Decoder(Resource)
_STATUS: Final = msgspec.json.Decoder(Status)
_MAPPING: Final = msgspec.json.Decoder(dict[str, Any])


@cache
def _decoder(shape: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(shape)


def split_list(data: bytes) -> RawPage:
    """The parts of a list answer. Raises Malformed if it is not a list."""
    try:
        page = _LIST.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"not a list: {error}") from error
    return RawPage(page.items or [], page.metadata.resource_version, page.metadata.continue_token)


def decode_object(kind: Kind[R], data: bytes | msgspec.Raw) -> R:
    """One object. Raises Malformed if it is not JSON or its fields have other types than the kind's.

    Kinds with old spellings are read by way of `fold`, and a null in them counts as left out, as it does for Go's
    reader: CustomResourceDefinitions from before v1.6.0 had no schema that would have kept nulls away.
    """
    try:
        if not kind.old_spellings:
            decoder: msgspec.json.Decoder[R] = _decoder(kind.shape)
            return decoder.decode(data)
        document = _MAPPING.decode(data)
        for part in ("spec", "status"):
            if isinstance(value := document.get(part), dict):
                document[part] = _without_nulls(fold(value))
            else:
                document.pop(part, None)
        converted: R = msgspec.convert(document, kind.shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a readable {kind.name}: {error}") from error
    return converted


def decode_list(kind: Kind[R], data: bytes) -> ListPage[R]:
    """A whole page at once. Raises Malformed, also when one object of it cannot be read."""
    page = split_list(data)
    items = [decode_object(kind, item) for item in page.items]
    return ListPage(items, page.resource_version, page.continue_token)


def decode_event(kind: Kind[R], line: bytes) -> WatchEvent[R]:
    """One line of a watch. Raises Malformed if not even the object's metadata can be read."""
    try:
        envelope = _ENVELOPE.decode(line)
        if envelope.type == "ERROR":
            return WatchEvent("ERROR", None, "", from_status(_STATUS.decode(envelope.object)))
        named = _RESOURCE.decode(envelope.object)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a watch event: {error}") from error
    version = named.metadata.resource_version
    if envelope.type == "BOOKMARK":
        return WatchEvent("BOOKMARK", None, version)
    if envelope.type not in {"ADDED", "MODIFIED", "DELETED"}:
        raise Malformed(f"not a watch event: type {envelope.type[:32]!r}")
    try:
        content = decode_object(kind, envelope.object)
    except Malformed:
        content = None
    return WatchEvent(envelope.type, content, version, None, named.key)


def decode_key(data: bytes | msgspec.Raw) -> tuple[str, str]:
    """Namespace and name of an object of any kind, both empty where it has none that can be read."""
    try:
        return _RESOURCE.decode(data).key
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""


def _without_nulls(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in document.items()
        if value is not None
    }
