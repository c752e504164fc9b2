"""The end of a request's body: two state machines over a growing buffer with bounded memory.

Only proxied requests use their body, but every body must be read (or the connection closed): the next request follows
it, and a different reading of its start is request smuggling. A body is read completely before its request is handled:
it has at most 16 kB, and no call to IMDS, and no permit, waits for a slow sender.
"""

import re
from typing import Final, Protocol

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.head import CRLF, bad

_SIZE_LINE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")
_SIZE_LINE_BYTES: Final = 10
CHUNKS_MAX: Final = 8
"""Chunks of one body without the last one: each takes time, however short it is. Clients send 16 kB in a few."""


class Body(Protocol):
    """A body that is being read."""

    def take(self, received: bytearray) -> bytes | Refusal | None:
        """Remove the body from *received* and return its raw bytes; None while bytes are missing."""

    @property
    def content(self) -> bytes:
        """The decoded body, available after take() has returned bytes."""


class Sized:
    """A body of a known length; a missing body has length 0."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.content = b""

    def take(self, received: bytearray) -> bytes | Refusal | None:
        if len(received) < self._length:
            return None
        self.content = bytes(received[: self._length])
        del received[: self._length]
        return self.content


class Chunked:
    """A chunked body (RFC 9112 §7.1), without extensions and trailers: no client uses them, and parsers differ."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._at = 0
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def content(self) -> bytes:
        return b"".join(self._chunks)

    def take(self, received: bytearray) -> bytes | Refusal | None:
        while True:
            end = received.find(CRLF, self._at, self._at + _SIZE_LINE_BYTES)
            if end < 0:
                return bad("a malformed chunk") if len(received) - self._at >= _SIZE_LINE_BYTES else None
            line = received[self._at : end]
            if _SIZE_LINE.fullmatch(line) is None:
                return bad("a malformed chunk")
            size, start = int(line, 16), end + len(CRLF)
            if size and len(self._chunks) == CHUNKS_MAX:
                return bad("too many chunks")
            if self._size + size > self._most:
                return body_too_large()
            stop = start + size
            if received[stop : stop + len(CRLF)] != CRLF:
                return bad("a malformed chunk") if len(received) >= stop + len(CRLF) else None
            self._at = stop + len(CRLF)
            if size == 0:
                raw = bytes(received[: self._at])
                del received[: self._at]
                return raw
            self._chunks.append(bytes(received[start:stop]))
            self._size += size


def body_too_large() -> Refusal:
    sentence = "The body of the request is too large."
    detail = f"{sentence} See which client sends it."
    return Refusal(Reason.BODY_TOO_LARGE, sentence, detail, limit=Limit.BODY_BYTES)
