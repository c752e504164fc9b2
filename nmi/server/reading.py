"""The reader that turns bytes into whole requests. Sans-I/O: the caller feeds bytes and takes the next request.

llhttp parses all its input in one call and has no limits. Therefore this module first finds the end of a request (by
`head` and the bodies below), and then passes exactly one whole message to llhttp. If llhttp reads the message
differently, the request is refused: request smuggling depends on such differences.

Only proxied requests use their body, but every body must be read (or the connection closed): the next request follows
it, and a different reading of its start is request smuggling. A body is read completely before its request is handled:
it has at most 16 kB, and no call to IMDS, and no permit, waits for a slow sender.
"""

import re
from typing import Final

import httptools
from msgspec.structs import replace

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.head import CRLF, HEAD_END, bad, parse_head, refuse_early
from nmi.server.policy import Sizes
from nmi.server.request import Request

CHUNKS_MAX: Final = 8
"""Chunks of one body without the last one: each takes time, however short it is. Clients send 16 kB in a few."""
_SIZE_LINE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")
_SIZE_LINE_BYTES: Final = 10

_LLHTTP_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Methods that llhttp knows in HTTP/1.1 (RFC 9110 §9.3, RFC 5789). It refuses unknown ones, whose response is a 405."""


class RequestReader:
    """Reader of one connection. After a Refusal it reads nothing more: the start of the next request is unknown."""

    __slots__ = ("_body", "_raw_head", "_received", "_refusal", "_request", "_searched", "_sizes", "_skipped")

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._received = bytearray()
        self._refusal: Refusal | None = None
        self._begin()

    def _begin(self) -> None:
        self._raw_head = b""
        self._request: Request | None = None
        """The request whose body is being read."""
        self._body: _SizedBody | _ChunkedBody | None = None
        self._searched = 0
        self._skipped = False

    @property
    def empty(self) -> bool:
        """Whether every received byte is part of a request that next() returned."""
        return not self._received and self._request is None

    @property
    def waiting_bytes(self) -> int:
        return len(self._received)

    def feed(self, data: bytes) -> None:
        if self._refusal is None:
            self._received += data

    def discard(self) -> None:
        """Discard the received bytes and read nothing more. `next` must not be called again."""
        self._begin()
        self._received = bytearray()

    def next(self) -> Request | Refusal | None:
        """Return the next request, the refusal that ends reading, or None while bytes are missing."""
        if self._refusal is None:
            result = self._read()
            if not isinstance(result, Refusal):
                return result
            self._refusal = result
            self._received.clear()
        return self._refusal

    def _read(self) -> Request | Refusal | None:
        request = self._request
        if request is None:
            begun = self._read_head()
            if begun is None or isinstance(begun, Refusal):
                return begun
            request = self._request = begun
        message = self._raw_head
        if self._body is not None:
            raw = self._body.take(self._received)
            if raw is None or isinstance(raw, Refusal):
                return raw
            message, request = message + raw, replace(request, body=self._body.content)
        self._begin()
        if not _llhttp_agrees(message, request):
            return bad("something that two parsers understand differently")
        return request

    def _read_head(self) -> Request | Refusal | None:
        """Take the head from the received bytes if it is complete, and prepare for its body if it announces one."""
        received = self._received
        if received.startswith(CRLF) and not self._skipped:
            # RFC 9112 §2.2: ignore one empty line before a request; old clients send one after a body.
            del received[: len(CRLF)]
            self._skipped = True
        if not received or (received == b"\r" and not self._skipped):
            return None
        # From where the last search ended: single bytes must not cost a search of the whole head each.
        end = received.find(HEAD_END, max(0, self._searched - len(HEAD_END) + 1))
        if end < 0:
            refusal = refuse_early(received, self._sizes, self._searched)
            self._searched = len(received)
            return refusal
        self._raw_head = bytes(received[: end + len(HEAD_END)])
        del received[: end + len(HEAD_END)]
        request = parse_head(self._raw_head, self._sizes)
        if isinstance(request, Refusal):
            return request
        # Before any byte of the body is read, because the announced length decides.
        if request.length > self._sizes.body_bytes:
            return body_too_large()
        if request.chunked:
            self._body = _ChunkedBody(self._sizes.body_bytes)
        elif request.length:
            self._body = _SizedBody(request.length)
        return request


class _SizedBody:
    """A body of a known length, which is read from a growing buffer."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.content = b""
        """The decoded body, available after take() has returned bytes."""

    def take(self, received: bytearray) -> bytes | Refusal | None:
        """Remove the body from *received* and return its raw bytes; None while bytes are missing."""
        if len(received) < self._length:
            return None
        self.content = bytes(received[: self._length])
        del received[: self._length]
        return self.content


class _ChunkedBody:
    """A chunked body (RFC 9112 §7.1), without extensions and trailers: no client uses them, and parsers differ.

    Its methods are those of `_SizedBody`.
    """

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


class _Seen:
    """The callbacks of llhttp, which record its reading: httptools calls the methods defined here."""

    __slots__ = ("fields", "heads", "messages", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields = 0
        self.heads = 0
        self.messages = 0

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, _name: bytes, _value: bytes) -> None:
        self.fields += 1

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_message_complete(self) -> None:
        self.messages += 1


def _llhttp_agrees(message: bytes, request: Request) -> bool:
    """Return whether llhttp in its strictest mode reads *message* as one request with the head of *request*.

    It reads a method outside of _LLHTTP_METHODS as POST: the method has no effect on the framing (RFC 9112 §6.3).
    """
    seen, method = _Seen(), request.method.encode()
    if request.method not in _LLHTTP_METHODS:
        method, message = b"POST", b"POST" + message[len(method) :]
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(message)
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops where another protocol could begin; NMI ignores Upgrade (see head.py)
    except httptools.HttpParserError:
        return False
    return (
        (seen.heads, seen.messages, seen.fields) == (1, 1, len(request.fields))
        and seen.target == request.target.encode()
        and parser.get_method() == method
        and parser.get_http_version() == ("1.0" if request.http_1_0 else "1.1")
    )


def body_too_large() -> Refusal:
    sentence = "The body of the request is too large."
    detail = f"{sentence} See which client sends it."
    return Refusal(Reason.BODY_TOO_LARGE, sentence, detail, limit=Limit.BODY_BYTES)
