"""Incremental scanner of list responses and watch lines, for objects of any size and depth.

It is slow (some 50 ms of CPU time per MiB of brackets) and is used for responses that do not fit into memory or are
nested deeper than msgspec reads. It finds the boundaries and names of objects. It does not check that the bytes are
JSON; the decoder of the objects does. Pure: no I/O, no clock.
"""

import re
from typing import Final

import msgspec

from podidentity.resources import BareMeta

DEPTH_READABLE: Final = 256
"""Levels that msgspec always reads; the exact limit depends on the interpreter and its stack."""
FIELD_MAX: Final = 4096
"""Maximum size in bytes of a key, a name or a continue token."""

# Possessive quantifiers do not backtrack, so that the time grows only linearly with the response.
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_BETWEEN: Final = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL)
_BEFORE_TOKEN: Final = re.compile(rb'[^"\[\]{}:,]*+')
_BRACKETS: Final = re.compile(rb"[\[{]++|[\]}]++")
_NAMES: Final = frozenset({"name", "namespace", "uid", "resourceVersion"})
_OPEN: Final = b"[{"
_QUOTE, _COLON, _COMMA = b'":,'


class ScanError(Exception):
    """The bytes are not a list or event: unbalanced brackets, or a premature end."""


class ScannedObject(msgspec.Struct, frozen=True):
    """One object; `data` is empty if it exceeds the scanner's limit."""

    meta: BareMeta
    """Name, namespace, uid and resource version, as far as present."""
    data: bytes
    size: int
    """Size of the whole object in bytes."""
    depth: int
    """Depth of its brackets, including its own."""


class Scanner:
    """Scanner of one response in pieces of any size. Memory is limited to *object_max* bytes and the current piece."""

    def __init__(self, *, event: bool = False, object_max: int) -> None:
        """*event*: one line of a watch, with the object under `object`, instead of a list with objects in `items`."""
        self._event = event
        self._object_max = object_max
        # The objects of a list are in an array, which is a level more.
        self._object_depth = 2 if event else 3
        self.fields: dict[str, str] = {}
        """Fields outside of the objects: `resourceVersion` and `continue` of a list, `type` of an event."""
        self.finished = False
        """Whether the outermost bracket is closed."""
        self._depth = 0
        # The deepest level whose keys are read is 4: the metadata of a list's objects.
        self._keys = [""] * 5
        """The last key at each relevant depth."""
        self._is_key = [False] * 5
        """Whether the next string at that depth is a key."""
        self._string: bytearray | None = None
        """Beginning of a string that continues in the next piece."""
        self._escaped = False
        self._begun = False
        self._start = 0
        self._kept = bytearray()
        self._size = 0
        self._deepest = 0
        self._meta: dict[str, str] = {}

    def feed(self, data: bytes) -> list[ScannedObject]:
        """Scan the next piece and return the objects that end in it. Raises ScanError."""
        objects: list[ScannedObject] = []
        at, end = self._finish_string(data), len(data)
        self._start = 0
        while at < end:
            at = self._skip(data, at) if self._depth > self._key_depth else self._scan_token(data, at, objects)
        if self._begun:
            self._keep(data[self._start :])
        return objects

    @property
    def _key_depth(self) -> int:
        """Return the depth of relevant keys: the object's metadata, or fields outside of objects."""
        if not self._begun:
            return 2
        return self._object_depth + (self._keys[self._object_depth] == "metadata")

    def _skip(self, data: bytes, at: int) -> int:
        """Skip content that is deeper than relevant: only brackets count."""
        floor = self._key_depth
        while True:
            between = _BETWEEN.match(data, at)
            at = between.end() if between is not None else at
            brackets = _BRACKETS.match(data, at)
            if brackets is None:
                return self._string_begins(data, at + 1) if at < len(data) else at
            length = brackets.end() - at
            if data[at] in _OPEN:
                self._depth += length
                self._deepest = max(self._deepest, self._depth)
                at += length
                continue
            closed = min(length, self._depth - floor)
            self._depth -= closed
            at += closed
            if self._depth <= floor:
                return at

    def _scan_token(self, data: bytes, at: int, objects: list[ScannedObject]) -> int:
        before = _BEFORE_TOKEN.match(data, at)
        at = before.end() if before is not None else at
        if at == len(data):
            return at
        token = data[at]
        at += 1
        depth = self._depth
        if token == _QUOTE:
            return self._string_begins(data, at)
        if token == _COLON:
            self._is_key[depth] = False
        elif token == _COMMA:
            self._is_key[depth] = True
        elif token in _OPEN:
            self._open(token, at - 1)
        else:
            self._close(data, at, objects)
        return at

    def _open(self, token: int, at: int) -> None:
        if self.finished:
            raise ScanError("more than one value")
        self._depth += 1
        self._deepest = max(self._deepest, self._depth)
        if self._depth < len(self._keys):
            self._keys[self._depth], self._is_key[self._depth] = "", token == _OPEN[1]
        inside = self._keys[1] == ("object" if self._event else "items")
        if inside and not self._begun and self._depth == self._object_depth:
            self._begun, self._start, self._size, self._deepest, self._meta = True, at, 0, self._depth, {}

    def _close(self, data: bytes, at: int, objects: list[ScannedObject]) -> None:
        self._depth -= 1
        if self._depth < 0:
            raise ScanError("unbalanced brackets")
        self.finished = self._depth == 0
        if self._begun and self._depth < self._object_depth:
            self._keep(data[self._start : at])
            complete = bytes(self._kept) if self._size <= self._object_max else b""
            depth = self._deepest - self._object_depth + 1
            objects.append(ScannedObject(msgspec.convert(self._meta, BareMeta), complete, self._size, depth))
            self._begun = False
            self._kept.clear()

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._object_max:
            self._kept += data
        else:
            self._kept.clear()

    def _string_begins(self, data: bytes, at: int) -> int:
        self._string = bytearray()
        return self._finish_string(data, at)

    def _finish_string(self, data: bytes, at: int = 0) -> int:
        """Continue an unfinished string and return its end, or the end of *data*."""
        if self._string is None:
            return at
        begin = at
        if self._escaped and at < len(data):
            self._escaped = False
            at += 1
        inside = _IN_STRING.match(data, at)
        at = inside.end() if inside is not None else at
        matters = self._depth <= self._key_depth
        if matters and len(self._string) <= FIELD_MAX:
            self._string += data[begin : min(at, begin + FIELD_MAX + 1)]
        if at == len(data):
            return at
        if data[at] != _QUOTE:  # a backslash at the end of the piece
            self._escaped = True
            if matters:
                self._string += b"\\"
            return len(data)
        if matters:
            self._string_ends(bytes(self._string))
        self._string = None
        return at + 1

    def _string_ends(self, raw: bytes) -> None:
        depth = self._depth
        if self._is_key[depth]:
            self._keys[depth] = _text(raw)
            return
        key = self._keys[depth]
        if self._begun:
            if depth == self._object_depth + 1 and key in _NAMES:
                self._meta[key] = _text(raw)
        elif (depth == 1 and key == "type") or (
            depth == 2 and self._keys[1] == "metadata" and key in {"resourceVersion", "continue"}
        ):
            self.fields[key] = _text(raw)


def _text(raw: bytes) -> str:
    """Return the string in *raw*, without quotes; empty if it is too long or not UTF-8."""
    if len(raw) > FIELD_MAX:
        return ""
    try:
        return msgspec.json.decode(b'"' + raw + b'"', type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
