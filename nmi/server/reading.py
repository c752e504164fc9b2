"""The reader that turns bytes into whole requests. Sans-I/O: the caller feeds bytes and takes the next request.

llhttp parses all its input in one call and has no limits. Therefore this module first finds the end of a request
(`head`, `body`), and then passes exactly one whole message to llhttp. If llhttp reads the message differently, the
request is refused: request smuggling depends on such differences.
"""

from typing import Final

import httptools

from nmi.refusal import Refusal
from nmi.server.body import Body, Chunked, Sized, body_too_large
from nmi.server.head import CRLF, HEAD_END, Head, bad, parse_head, refuse_early
from nmi.server.policy import Sizes
from nmi.server.request import Request

_LLHTTP_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Methods that llhttp knows in HTTP/1.1 (RFC 9110 §9.3, RFC 5789). It refuses unknown ones, whose answer is a 405."""


class RequestReader:
    """Reader of one connection. After a Refusal it reads nothing more: the start of the next request is unknown."""

    __slots__ = ("_body", "_head", "_raw_head", "_received", "_refusal", "_searched", "_sizes", "_skipped")

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._received = bytearray()
        self._refusal: Refusal | None = None
        self._begin()

    def _begin(self) -> None:
        self._raw_head = b""
        self._head: Head | None = None
        self._body: Body | None = None
        self._searched = 0
        self._skipped = False

    @property
    def empty(self) -> bool:
        """Whether every received byte is part of a request that next() returned."""
        return not self._received and self._head is None

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
            found = self._read()
            if not isinstance(found, Refusal):
                return found
            self._refusal = found
            self._received.clear()
        return self._refusal

    def _read(self) -> Request | Refusal | None:
        head = self._head
        if head is None:
            found = self._read_head()
            if found is None or isinstance(found, Refusal):
                return found
            head = self._head = found
        message, content = self._raw_head, b""
        if self._body is not None:
            raw = self._body.take(self._received)
            if raw is None or isinstance(raw, Refusal):
                return raw
            message, content = message + raw, self._body.content
        self._begin()
        if not _llhttp_agrees(message, head):
            return bad("something that two parsers understand differently")
        return Request(head.method, head.target, head.fields, head.http_1_0, head.keep_alive, content)

    def _read_head(self) -> Head | Refusal | None:
        """Take the head from the received bytes if it is complete, and prepare for its body if it announces one."""
        received = self._received
        if received.startswith(CRLF) and not self._skipped:
            # RFC 9112 §2.2: ignore one empty line before a request; old clients send one after a body.
            del received[: len(CRLF)]
            self._skipped = True
        if not received or (received == b"\r" and not self._skipped):
            return None
        end = received.find(HEAD_END, max(0, self._searched - len(HEAD_END) + 1))
        if end < 0:
            refusal = refuse_early(received, self._sizes, self._searched)
            self._searched = len(received)
            return refusal
        self._raw_head = bytes(received[: end + len(HEAD_END)])
        del received[: end + len(HEAD_END)]
        head = parse_head(self._raw_head, self._sizes)
        if isinstance(head, Refusal):
            return head
        if head.length > self._sizes.body_bytes:
            return body_too_large()
        if head.chunked:
            self._body = Chunked(self._sizes.body_bytes)
        elif head.length:
            self._body = Sized(head.length)
        return head


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


def _llhttp_agrees(message: bytes, head: Head) -> bool:
    """Return whether llhttp in its strictest mode reads *message* as one request with the same head.

    It reads a method outside of _LLHTTP_METHODS as POST: the method has no effect on the framing (RFC 9112 §6.3).
    """
    seen, method = _Seen(), head.method.encode()
    if head.method not in _LLHTTP_METHODS:
        method, message = b"POST", b"POST" + message[len(method) :]
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(message)
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops where another protocol could begin; NMI ignores Upgrade (see head.py)
    except httptools.HttpParserError:
        return False
    return (
        (seen.heads, seen.messages, seen.fields) == (1, 1, len(head.fields))
        and seen.target == head.target.encode()
        and parser.get_method() == method
        and parser.get_http_version() == ("1.0" if head.http_1_0 else "1.1")
    )
