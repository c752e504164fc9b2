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
_OVERHEAD: Final = 4
"""The factor by which chunk lines may enlarge a body. Chunks of one byte would enlarge it six times."""


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
                enough = len(received) - self._at >= _SIZE_LINE_BYTES
                return bad("a malformed chunk") if enough else self._unless_too_large(received)
            line = received[self._at : end]
            if _SIZE_LINE.fullmatch(line) is None:
                return bad("a malformed chunk")
            size, start = int(line, 16), end + len(CRLF)
            if self._size + size > self._most:
                return body_too_large()
            stop = start + size
            if received[stop : stop + len(CRLF)] != CRLF:
                enough = len(received) >= stop + len(CRLF)
                return bad("a malformed chunk") if enough else self._unless_too_large(received)
            self._at = stop + len(CRLF)
            if size == 0:
                raw = bytes(received[: self._at])
                del received[: self._at]
                return raw
            self._chunks.append(bytes(received[start:stop]))
            self._size += size

    def _unless_too_large(self, received: bytearray) -> Refusal | None:
        return body_too_large() if len(received) > _OVERHEAD * self._most else None


def body_too_large() -> Refusal:
    sentence = "The body of the request is too large."
    detail = f"{sentence} See which client sends it, and --max-body-bytes if it is one of yours."
    return Refusal(Reason.BODY_TOO_LARGE, sentence, detail, limit=Limit.BODY_BYTES)
