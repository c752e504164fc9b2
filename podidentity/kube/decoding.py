"""From the API server's bytes to our projections. Pure: no I/O, no clock.

A list is taken apart in two steps, so that a caller can decode it in slices and let the loop breathe in between:
`split_list` finds where each object begins and ends, `decode_object` reads one.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Generic, TypeVar

import msgspec

from podidentity.kube.errors import ApiError, Status, from_status
from podidentity.resources import BareMeta, Kind, Resource, fold

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

DEPTH_MAX: Final = 64
"""What is nested deeper counts as null once an answer is too deep to be read. Nothing of ours is deeper than ten."""
SEEN_MAX: Final = 4096
"""Texts that are remembered, so that they are kept once."""
SEEN_CHARS: Final = 512
"""The longest of them; the id of an identity has about 200. Whoever means it gets 2 MiB of them, 8 at the widest."""
_SEEN: Final[dict[str, str]] = {}
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]', re.DOTALL)


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
    cut: bool = False
    """Some object is without what was nested too deep in it: not one to be written back."""


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


def shallow(data: bytes) -> bytes:
    """*data*, which is JSON, with what is nested deeper than DEPTH_MAX replaced by null; in a single pass.

    The API server takes ten thousand levels, in managedFields for one, from whoever may write an object; no reader of
    JSON in Python does.
    """
    kept: list[bytes] = []
    depth, begun = 0, 0
    for found in _TOKEN.finditer(data):
        token = data[found.start()]
        if token in b"[{":
            depth += 1
            if depth == DEPTH_MAX + 1:
                kept += data[begun : found.start()], b"null"
        elif token in b"]}":
            if depth == DEPTH_MAX + 1:
                begun = found.end()
            depth -= 1
    if depth <= DEPTH_MAX:
        kept.append(data[begun:])
    return b"".join(kept)


def _read(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """What *decoder* makes of *data*: one object that is too deep must not hide what stands beside it."""
    try:
        return decoder.decode(data)
    except RecursionError:
        return decoder.decode(shallow(bytes(data)))


@cache
def _decoder(shape: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(shape)


def split_list(data: bytes) -> RawPage:
    """The parts of a list answer. Raises Malformed if it is not a list."""
    cut = False
    try:
        try:
            page = _LIST.decode(data)
        except RecursionError:
            page, cut = _LIST.decode(shallow(data)), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a list: {error}") from error
    return RawPage(page.items or [], page.metadata.resource_version, page.metadata.continue_token, cut=cut)


def decode_object(kind: Kind[R], data: bytes | msgspec.Raw) -> R:
    """One object. Raises Malformed if it is not JSON or its fields have other types than the kind's.

    Kinds with old spellings are read by way of `fold`, and a null in them counts as left out, as it does for Go's
    reader: CustomResourceDefinitions from before v1.6.0 had no schema that would have kept nulls away.
    """
    try:
        if not kind.old_spellings:
            decoder: msgspec.json.Decoder[R] = _decoder(kind.shape)
            return _read(decoder, data)
        stored: dict[str, Any] = _read(_MAPPING, data)
        document = fold(stored, kind.shape)
        for part in ("spec", "status"):
            if isinstance(value := document.get(part), dict):
                document[part] = _without_nulls(value)
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
        envelope = _read(_ENVELOPE, line)
        if envelope.type == "ERROR":
            return WatchEvent("ERROR", None, "", from_status(_read(_STATUS, envelope.object)))
        named = _read(_RESOURCE, envelope.object)
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


def decode_meta(data: bytes | msgspec.Raw) -> BareMeta:
    """Which object of any kind it is, and which version of it; all empty where that cannot be read."""
    try:
        return _read(_RESOURCE, data).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return BareMeta()


def _without_nulls(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tidied(value) for name, value in document.items() if value is not None}


def _tidied(value: Any) -> Any:
    match value:
        case dict():
            return _without_nulls(value)
        case str():
            return _as_one(value)
        case _:
            return value


def _as_one(text: str) -> str:
    """*text*, as the same object as before where it has been seen lately: thousands of objects name a few identities.

    Not `sys.intern`, whose strings some versions of Python keep for ever.
    """
    if len(text) > SEEN_CHARS:
        return text
    if len(_SEEN) >= SEEN_MAX:
        _SEEN.clear()
    return _SEEN.setdefault(text, text)
