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
from podidentity.resources import BareMeta, Kind, Resource, Wire, fold, spellings

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

SHALLOW_MAX: Final = 64 * 1024
"""Bytes of an object that is read without its depths: a pass over them that takes 50 ms at most."""
WHOLE_MAX: Final = 16 * 1024
"""Bytes of a custom resource that is read with all its fields, which is faster; it takes 5 ms at most."""
FIELDS_MAX: Final = 1000
"""Fields of a custom resource, or of a part of it, known or not. The largest of our kinds has eight."""
VALUE_MAX: Final = 64 * 1024
"""Bytes of one field of a custom resource. The limits of `object_limits` on what is in it are lower."""
METADATA_VALUE_MAX: Final = 1024 * 1024
"""Bytes of one field of a custom resource's metadata: annotations may hold 256 KiB, more where they are escaped."""
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


class TooDeep(Malformed):
    """JSON nested deeper than can be read, and larger than SHALLOW_MAX."""


class TooLarge(Malformed):
    """An object that is over the limit as a whole."""


class TooLong(Malformed):
    """An object with a part over its limit."""


class ListPage(msgspec.Struct, Generic[R], frozen=True):
    """One page of a list. `continue_token` is empty on the last page."""

    items: list[R]
    resource_version: str
    continue_token: str


class Skipped(msgspec.Struct, frozen=True):
    """An object that is left out because of its size or its depth; `meta` has its names, uid and version."""

    meta: BareMeta
    error: Malformed


class RawPage(msgspec.Struct, frozen=True):
    """One page of a list with its objects still undecoded; they share the page's memory."""

    items: list[msgspec.Raw]
    resource_version: str
    continue_token: str
    first: bool = True
    """The list begins here, perhaps anew."""
    cut: bool = False
    """Some object is without what was nested too deep in it: not one to be written back."""
    skipped: list[Skipped] = []
    """Objects of the page that are not among its items."""
    size: int = 0
    """Bytes of the answer; 0 where it came in several pages."""


class LongLine(msgspec.Struct, frozen=True):
    """A line of a watch that is too long to be kept; `type` and `meta` are empty where they could not be found."""

    type: str
    meta: BareMeta
    size: int
    """Bytes of the object."""


class WatchEvent(msgspec.Struct, Generic[R], frozen=True):
    """One line of a watch.

    `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR. `object` is None for the last two, and for an object of the
    right kind whose content cannot be read; then `meta` still says which one it was, and `problem` why. `error` is set
    for ERROR only.
    """

    type: str
    object: R | None
    resource_version: str
    error: ApiError | None = None
    meta: BareMeta = BareMeta()
    problem: Malformed | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name of the object."""
        return self.meta.namespace, self.meta.name


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Envelope(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Names(Wire, frozen=True):
    """What tells which object it is, and which version of it."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct):
    metadata: _Names = _Names()


_LIST: Final = msgspec.json.Decoder(_List)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_NAMED: Final = msgspec.json.Decoder(_Named)
_STATUS: Final = msgspec.json.Decoder(Status)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MAPPING: Final = msgspec.json.Decoder(dict[str, Any])
_ANY: Final = msgspec.json.Decoder(Any)


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
    """What *decoder* makes of *data*, without what is nested too deep. Raises TooDeep if it is large besides."""
    try:
        return decoder.decode(data)
    except RecursionError:
        return decoder.decode(_shallow_if_small(bytes(data)))


def _shallow_if_small(data: bytes) -> bytes:
    if len(data) > SHALLOW_MAX:
        raise TooDeep(f"it is nested too deep and has {len(data)} bytes; remove the nested fields")
    return shallow(data)


@cache
def _decoder(shape: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(shape)


def split_list(data: bytes) -> RawPage:
    """The parts of a list answer. Raises Malformed if it is not a list, and TooDeep as `Scanner` still can read it."""
    cut = False
    try:
        try:
            page = _LIST.decode(data)
        except RecursionError:
            page, cut = _LIST.decode(_shallow_if_small(data)), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a list: {error}") from error
    meta = page.metadata
    return RawPage(page.items or [], meta.resource_version, meta.continue_token, cut=cut, size=len(data))


def decode_object(kind: Kind[R], data: bytes | msgspec.Raw) -> R:
    """One object. Raises Malformed if it is not JSON or its fields have other types than the kind's, TooDeep, and
    TooLong if a custom resource has more or larger fields than FIELDS_MAX and VALUE_MAX allow.

    Kinds with old spellings are read by way of `fold`, and a null in them counts as left out, as it does for Go's
    reader: CustomResourceDefinitions from before v1.6.0 had no schema that would have kept nulls away.
    """
    try:
        if not kind.old_spellings:
            decoder: msgspec.json.Decoder[R] = _decoder(kind.shape)
            return _read(decoder, data)
        stored: dict[str, Any] = (
            _read(_MAPPING, data) if len(memoryview(data)) <= WHOLE_MAX else _fields_of(data, kind.shape, "")
        )
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


def _fields_of(data: bytes | msgspec.Raw, shape: type[Wire], path: str) -> dict[str, Any]:
    """The fields of *data* that *shape* knows, in whatever spelling; no value of another is ever built.

    So an object costs what we read of it, not what somebody else put beside that.
    """
    stored = _read(_FIELDS, data)
    if len(stored) > FIELDS_MAX:
        raise TooLong(f"{path or 'it'} has {len(stored)} fields, and the limit is {FIELDS_MAX}")
    known, exact = spellings(shape), issubclass(shape, BareMeta)
    most = METADATA_VALUE_MAX if exact else VALUE_MAX
    found: dict[str, Any] = {}
    for name, raw in stored.items():
        field = known.get(name) or (known.get(name.lower()) if not exact else None)
        if field is None:
            continue
        where = f"{path}.{field.present}" if path else field.present
        size = len(memoryview(raw))
        if field.read is not None and bytes(memoryview(raw)[:1]) == b"{":
            found[name] = _fields_of(raw, field.read, where)
        elif size > most:
            raise TooLong(f"{where} has {size} bytes, and the limit is {most}")
        else:
            found[name] = _read(_ANY, raw)
    return found


def outline(kind: Kind[R], data: bytes | msgspec.Raw) -> dict[str, Any]:
    """The names of the fields of an object that *kind* knows, as spelled, with None where the value is null, else True.

    For objects that are too large to be decoded as a whole. Raises Malformed.
    """
    try:
        return _outline(data, kind.shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a readable {kind.name}: {error}") from error


def _outline(data: bytes | msgspec.Raw, shape: type[Wire]) -> dict[str, Any]:
    stored = _read(_FIELDS, data)
    if len(stored) > FIELDS_MAX:
        raise TooLong(f"it has {len(stored)} fields, and the limit is {FIELDS_MAX}")
    known = spellings(shape)
    found: dict[str, Any] = {}
    for name, raw in stored.items():
        field = known.get(name) or known.get(name.lower())
        if field is not None:
            inner = field.shape if bytes(memoryview(raw)[:1]) == b"{" else None
            found[name] = _outline(raw, inner) if inner is not None else None if bytes(raw) == b"null" else True
    return found


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
        names = _read(_NAMED, envelope.object).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a watch event: {error}") from error
    version = names.resource_version
    if envelope.type == "BOOKMARK":
        return WatchEvent("BOOKMARK", None, version)
    if envelope.type not in {"ADDED", "MODIFIED", "DELETED"}:
        raise Malformed(f"not a watch event: type {envelope.type[:32]!r}")
    content, problem = None, None
    try:
        content = decode_object(kind, envelope.object)
    except Malformed as error:
        problem = error
    return WatchEvent(envelope.type, content, version, None, _meta(names), problem)


def decode_meta(data: bytes | msgspec.Raw) -> BareMeta:
    """Name, namespace, uid and version of an object of any kind; all empty where that cannot be read."""
    try:
        return _meta(_read(_NAMED, data).metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Malformed):
        return BareMeta()


def _meta(names: _Names) -> BareMeta:
    return BareMeta(name=names.name, namespace=names.namespace, uid=names.uid, resource_version=names.resource_version)


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
