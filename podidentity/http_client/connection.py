"""One connection, and the responses that arrive on it.

The server is not trusted: it can send at most HEAD_MAX bytes without a byte of a body, bytes that belong to no request
close the connection, and a response that ends early is an error.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from podidentity.http_client.errors import (
    ClientOSError,
    ClientPayloadError,
    ClientResponseError,
    HttpClientError,
    ServerDisconnectedError,
    SocketTimeoutError,
)

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

T = TypeVar("T")

HEAD_MAX: Final = 64 * 1024
"""Bytes of a head, of trailers, and between two pieces of a body. The API server and IMDS send less than 2 KiB."""
READ_AHEAD: Final = 256 * 1024
"""The connection is not read while twice this many bytes of a body wait for their reader."""
SWITCHING_PROTOCOLS: Final = 101
BODILESS: Final = frozenset({204, 304})


class Response:
    """A response and its body as it arrives. Its owner reads it to the end or calls `close`.

    The connection is free for another request as soon as the whole response has arrived.
    """

    def __init__(
        self, connection: "HttpConnection", finished: Callable[[bool], None], silence_seconds: float | None
    ) -> None:
        """*finished* is called once, with whether the connection can serve another request."""
        self.status = 0
        self.headers: dict[str, str] = {}
        """The fields by their names in lower case. Of equal fields the first counts."""
        self.began = False
        self.open = True
        self._connection = connection
        self._finished = finished
        self._silence_seconds = silence_seconds
        self._head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._body = asyncio.StreamReader(limit=READ_AHEAD)
        self._body.set_transport(cast("asyncio.Transport", self))

    @property
    def content_length(self) -> int | None:
        """The length that the head states, which the parser has checked."""
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    async def head(self) -> None:
        """Return once the head has arrived. Raise HttpClientError."""
        await self._in_time(self._head)

    async def readany(self) -> bytes:
        """Return the next bytes of the body; none at its end. Raise HttpClientError if it is not complete."""
        return await self._in_time(self._body.read(2 * READ_AHEAD))

    async def _in_time(self, work: Awaitable[T]) -> T:
        limit = asyncio.timeout(self._silence_seconds)
        try:
            async with limit:
                return await work
        except TimeoutError as error:
            if limit.expired():
                raise SocketTimeoutError(f"nothing from the server in {self._silence_seconds} s") from error
            raise

    def close(self) -> None:
        """Close the connection unless the response is complete. May be called at any time, and repeatedly."""
        self.fail(HttpClientError("Connection closed"))

    def pause_reading(self) -> None:
        """Read no more for now: the buffer of the body calls this and `resume_reading`."""
        if self.open:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.open:
            self._connection.resume_reading()

    def begin(self, status: int) -> None:
        """Note the end of the head. The methods from here on are for the connection."""
        self.status, self.began = status, True
        if not self._head.done():
            self._head.set_result(None)

    def feed(self, piece: bytes) -> None:
        """Add *piece* to the body."""
        if self.open:
            self._body.feed_data(piece)

    def complete(self, *, reusable: bool) -> None:
        """Note the end of the body."""
        if self.open:
            # While it is still open: a paused connection would not read the next response.
            self.resume_reading()
            self.open = False
            self._body.feed_eof()
            self._finished(reusable)

    def fail(self, error: HttpClientError) -> None:
        """Note that the rest does not arrive. No effect on a complete response."""
        if self.open:
            if not self._head.done():
                self._head.set_exception(error)
                self._head.exception()  # its reader may have been cancelled
            self._body.set_exception(error)
            self.complete(reusable=False)


class HttpConnection(asyncio.Protocol):
    """A connection to one server, with one request at a time."""

    def __init__(self, lost: Callable[["HttpConnection"], None]) -> None:
        """*lost* is called when the connection is closed."""
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._response: Response | None = None
        self._bodiless = False
        self._until_close = False
        self._overhead = 0

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, response: Response, *, bodiless: bool) -> None:
        """Send *request*, to which *response* belongs; *bodiless*: of a HEAD request."""
        self._parser = HttpResponseParser(self)
        self._response, self._bodiless, self._until_close, self._overhead = response, bodiless, False, 0
        if self._transport is None or not self.usable:
            response.fail(ServerDisconnectedError())
        else:
            self._transport.write(request)

    def pause_reading(self) -> None:
        """Read no more from the socket for now."""
        if self._transport is not None and self.usable:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the socket again."""
        if self._transport is not None and self.usable:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection without a wait."""
        if self._transport is not None:
            self._transport.abort()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        response = self._response
        if response is None:
            pass
        elif not response.began:
            response.fail(ClientOSError(*exc.args) if isinstance(exc, OSError) else ServerDisconnectedError())
        elif self._until_close and exc is None:
            response.complete(reusable=False)
        else:
            response.fail(_incomplete("the connection was closed" if exc is None else repr(exc)))
        self._lost(self)

    @override
    def data_received(self, data: bytes) -> None:
        parser, response = self._parser, self._response
        if parser is None or response is None or not response.open:
            self.abort()  # no request is open
            return
        self._overhead += len(data)
        try:
            parser.feed_data(data)
            problem = f"more than {HEAD_MAX} bytes without a body" if self._overhead > HEAD_MAX else ""
        except HttpParserUpgrade:
            response.complete(reusable=False)
            return
        except HttpParserError as error:
            problem = str(error.__context__ or error)
        if problem:
            response.fail(_incomplete(problem) if response.began else ClientResponseError(f"not HTTP: {problem}"))
            self.abort()  # also if the response was complete before the error

    def on_message_begin(self) -> None:
        """Reject a second response. The parser calls this and the methods below."""
        if self._response is None or not self._response.open:
            raise ValueError("bytes after the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head. Trailers are ignored."""
        if self._response is not None and not self._response.began:
            self._response.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        """Begin the response, unless it is an informational one, which precedes the proper response."""
        if self._parser is None or self._response is None:
            return
        status, headers = self._parser.get_status_code(), self._response.headers
        if status < 200 and status != SWITCHING_PROTOCOLS:
            headers.clear()
            return
        # A body without a length ends with the connection (RFC 9112 §6.3).
        self._until_close = (
            status not in BODILESS and "content-length" not in headers and "transfer-encoding" not in headers
        )
        self._response.begin(status)
        if self._bodiless:
            self._response.complete(reusable=False)  # the parser would wait for a body

    def on_body(self, piece: bytes) -> None:
        """Pass on a piece of the body."""
        self._overhead = 0
        if self._response is not None:
            self._response.feed(piece)

    def on_message_complete(self) -> None:
        """End the response, unless it is an informational one."""
        if self._parser is not None and self._response is not None and self._response.began:
            keeps = self._parser.should_keep_alive() and self._response.status != SWITCHING_PROTOCOLS
            self._response.complete(reusable=keeps)


def _incomplete(reason: str) -> ClientPayloadError:
    return ClientPayloadError(f"Response payload is not completed: {reason}")
