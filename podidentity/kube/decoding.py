"""Decoding of the API server's bytes into projections. Pure: no I/O, no clock.

A list is decoded in two steps, so that a caller can yield to the event loop in between: `split_list` finds the objects'
boundaries, `decode_object` decodes one object.
"""

import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from podidentity.kube.compact_values import without_nulls
from podidentity.kube.errors import ApiError, ApiStatus, from_status
from podidentity.kube.plain_objects import PlainAssigned, assembled_list, decode_plain
from podidentity.old_field_names import fields_by_name, fold, old_fields
from podidentity.resources import (
    AzureAssignedIdentity,
    BareMeta,
    Custom,
    Kind,
    Resource,
    Wire,
)

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

SHALLOW_MAX: Final = 64 * 1024
"""Maximum size in bytes of an object whose deep levels are removed: the pass over it takes at most 50 ms."""
WHOLE_MAX: Final = 16 * 1024
"""Maximum size in bytes of a custom resource that is decoded with all its fields, which is faster and takes at most 5
ms.
"""
FIELDS_MAX: Final = 1000
"""Maximum number of fields of a custom resource or of a part of it, known or not. The largest kind has eight."""
VALUE_MAX: Final = 64 * 1024
"""Maximum size in bytes of one field of a custom resource. The limits of `object_limits` on its content are lower."""
METADATA_VALUE_MAX: Final = 1024 * 1024
"""Maximum size in bytes of one metadata field of a custom resource: annotations have up to 256 KiB, more with escapes.
"""
OLD_FIELDS_MAX: Final = 8
"""Maximum number of fields with old names of one object that are named."""
DEPTH_MAX: Final = 64
"""Deeper levels count as null after a response is too deep to be decoded. Custom resources have at most ten levels."""
# Possessive quantifiers do not backtrack: the time is linear in the size.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]', re.DOTALL)


NoteIgnored: TypeAlias = Callable[[BareMeta, tuple[str, ...]], None]
"""Receiver of an object's metadata and of the paths of its fields that are ignored because of their old field name."""


class Malformed(Exception):  # noqa: N818 - named for what happened
    """Bytes that do not conform to the API server's protocol or to the kind's schema."""


class TooDeep(Malformed):
    """JSON nested too deep to be decoded and larger than SHALLOW_MAX."""


class TooLarge(Malformed):
    """An object over the limit for whole objects."""


class TooLong(Malformed):
    """An object with a field over its limit."""


class Skipped(msgspec.Struct, frozen=True):
    """An object that is skipped because of its size or depth; `meta` has its names, uid and version."""

    meta: BareMeta
    error: Malformed


class RawPage(msgspec.Struct, frozen=True):
    """One page of a list with undecoded objects, which share the page's memory.

    `continue_token` is empty on the last page.
    """

    items: list[msgspec.Raw]
    """Empty if the objects are decoded."""
    resource_version: str
    continue_token: str
    first: bool = True
    """The list begins here, perhaps again."""
    cut: bool = False
    """An object lacks its deepest levels and must not be written back."""
    skipped: list[Skipped] = []
    """Objects of the page that are not in `items`."""
    size: int = 0
    """Size of the response in bytes; 0 if it came in several pages."""
    objects: list[Any] = []
    """All objects of the page, of the kind's Struct, if `decode_list` has decoded them."""


class LongLine(msgspec.Struct, frozen=True):
    """A watch line that is too long to be stored; `type` and `meta` are empty if they were not found."""

    type: str
    meta: BareMeta
    size: int
    """Size of the object in bytes."""


class WatchEvent(msgspec.Struct, Generic[R], frozen=True):
    """One line of a watch.

    `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR. `object` is None for the last two, and for an object with
    unreadable content; `meta` then identifies the object and `problem` is the reason. `error` is set only for ERROR.
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


class _ListOf(msgspec.Struct, Generic[T]):
    metadata: _ListMeta
    items: list[T] | None = None


class _Envelope(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Names(Wire, frozen=True):
    """Identity and version of an object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct):
    metadata: _Names = _Names()


_LIST: Final = msgspec.json.Decoder(_List)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_NAMED: Final = msgspec.json.Decoder(_Named)
_STATUS: Final = msgspec.json.Decoder(ApiStatus)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MAPPING: Final = msgspec.json.Decoder(dict[str, Any])
_ANY: Final = msgspec.json.Decoder(Any)


def shallow(data: bytes) -> bytes:
    """Return the JSON *data* with everything deeper than DEPTH_MAX replaced by null, in one pass.

    The API server accepts ten thousand levels, for example in managedFields, from anyone with permission to write an
    object. JSON decoders in Python do not.
    """
    kept: list[bytes] = []
    depth, begun = 0, 0
    for match in _TOKEN.finditer(data):
        token = data[match.start()]
        if token in b"[{":
            depth += 1
            if depth == DEPTH_MAX + 1:
                kept += data[begun : match.start()], b"null"
        elif token in b"]}":
            if depth == DEPTH_MAX + 1:
                begun = match.end()
            depth -= 1
    if depth <= DEPTH_MAX:
        kept.append(data[begun:])
    return b"".join(kept)


def _read(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """Return *data* decoded, without its deepest levels if it is too deep. Raises TooDeep if it is also large."""
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
    """Return the parts of a list response. Raises Malformed if it is not a list, and TooDeep if only `Scanner` can read
    it.
    """
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


@cache
def _list_decoder(shape: type[T]) -> msgspec.json.Decoder[_ListOf[T]]:
    return msgspec.json.Decoder(_ListOf[shape])  # type: ignore[valid-type]  # a type at run time


def decode_list(kind: Kind[R], data: bytes, *, old_field_names: bool = False) -> RawPage:
    """Return the parts of a list response with decoded objects, which takes one pass over *data* instead of two.

    If an object cannot be decoded together with the others, return all undecoded, as `split_list`. Raises as that.
    """
    objects: list[Any] | None = None
    try:
        if kind.shape is AzureAssignedIdentity and not old_field_names:
            plain = _list_decoder(PlainAssigned).decode(data)
            meta, objects = plain.metadata, assembled_list(plain.items or (), _decode_part)
        # Custom resources need the limit of each field, and nulls that count as absent.
        elif not issubclass(kind.shape, Custom):
            page = _list_decoder(kind.shape).decode(data)
            meta, objects = page.metadata, page.items or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Malformed):
        objects = None
    if objects is None:
        return split_list(data)
    return RawPage([], meta.resource_version, meta.continue_token, objects=objects, size=len(data))


def decode_object(
    kind: Kind[R], data: bytes | msgspec.Raw, *, old_field_names: bool = False, note: NoteIgnored | None = None
) -> R:
    """Return one object. Raises Malformed if it is not JSON or its fields have other types than the kind's, TooDeep,
    and TooLong if a custom resource exceeds FIELDS_MAX or VALUE_MAX.

    In custom resources null counts as absent, as in Go: CustomResourceDefinitions from before v1.6.0 had no schema that
    rejected nulls. With *old_field_names* they are decoded through `fold`. Without it only fields with current names
    count, so that an object means to this program what it means to an admission policy; *note* receives the others,
    except those in the embedded copies of an AzureAssignedIdentity, which MIC writes.
    """
    try:
        if not issubclass(kind.shape, Custom):
            decoder: msgspec.json.Decoder[R] = _decoder(kind.shape)
            return _read(decoder, data)
        small = len(memoryview(data)) <= WHOLE_MAX
        # The copies that `decode_plain` shares are decoded without old field names.
        if small and kind.shape is AzureAssignedIdentity and not old_field_names:
            plain: Any = decode_plain(data, _decode_part)
            if plain is not None:
                return cast("R", plain)
        stored: dict[str, Any] = _read(_MAPPING, data) if small else _fields_of(data, kind.shape, "")
        # A copy, because `old_fields` reads what is stored.
        document = fold(stored, kind.shape) if old_field_names else dict(stored)
        for part in ("spec", "status"):
            if isinstance(value := document.get(part), dict):
                document[part] = without_nulls(value)
            else:
                document.pop(part, None)
        converted: R = msgspec.convert(document, kind.shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a readable {kind.name}: {error}") from error
    if note is not None and not old_field_names:
        ignored = tuple(islice(old_fields(stored, kind.shape), OLD_FIELDS_MAX))
        if ignored:
            note(converted.metadata, ignored)
    return converted


def _decode_part(shape: type[R], data: bytes) -> R:
    """Return an object that another one embeds."""
    stored: dict[str, Any] = _read(_MAPPING, data)
    converted: R = msgspec.convert(without_nulls(stored), shape)
    return converted


def _fields_of(data: bytes | msgspec.Raw, shape: type[Wire], path: str) -> dict[str, Any]:
    """Return the fields of *data* that *shape* knows, under current and old names. Other values are not decoded.

    The cost therefore does not depend on fields that an author adds.
    """
    stored = _read(_FIELDS, data)
    if len(stored) > FIELDS_MAX:
        raise TooLong(f"{path or 'it'} has {len(stored)} fields, and the limit is {FIELDS_MAX}")
    fields, exact = fields_by_name(shape), issubclass(shape, BareMeta)
    most = METADATA_VALUE_MAX if exact else VALUE_MAX
    values: dict[str, Any] = {}
    for name, raw in stored.items():
        # Metadata never had old field names.
        field = fields.get(name) or (fields.get(name.lower()) if not exact else None)
        if field is None:
            continue
        where = f"{path}.{field.present}" if path else field.present
        size = len(memoryview(raw))
        if field.read is not None and bytes(memoryview(raw)[:1]) == b"{":
            values[name] = _fields_of(raw, field.read, where)
        elif size > most:
            raise TooLong(f"{where} has {size} bytes, and the limit is {most}")
        else:
            values[name] = _read(_ANY, raw)
    return values


def outline(kind: Kind[R], data: bytes | msgspec.Raw) -> dict[str, Any]:
    """Return the known field names of an object, as spelled, with None for a null value, else True.

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
    fields = fields_by_name(shape)
    names: dict[str, Any] = {}
    for name, raw in stored.items():
        field = fields.get(name) or fields.get(name.lower())
        if field is not None:
            inner = field.shape if bytes(memoryview(raw)[:1]) == b"{" else None
            names[name] = _outline(raw, inner) if inner is not None else None if bytes(raw) == b"null" else True
    return names


def decode_event(
    kind: Kind[R], line: bytes, *, old_field_names: bool = False, note: NoteIgnored | None = None
) -> WatchEvent[R]:
    """Return one line of a watch, its object as `decode_object`. Raises Malformed if the object's metadata cannot be
    decoded either.
    """
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
    if envelope.type == "DELETED":
        note = None  # an object that no longer exists cannot be corrected
    try:
        content = decode_object(kind, envelope.object, old_field_names=old_field_names, note=note)
    except Malformed as error:
        problem = error
    return WatchEvent(envelope.type, content, version, None, _meta(names), problem)


def decode_meta(data: bytes | msgspec.Raw) -> BareMeta:
    """Return name, namespace, uid and version of an object of any kind; empty if they cannot be decoded."""
    try:
        return _meta(_read(_NAMED, data).metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Malformed):
        return BareMeta()


def _meta(names: _Names) -> BareMeta:
    return BareMeta(name=names.name, namespace=names.namespace, uid=names.uid, resource_version=names.resource_version)
