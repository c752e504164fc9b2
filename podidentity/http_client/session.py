"""Requests to servers, and the connections that they share."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from podidentity.http_client.connection import HttpConnection, Response
from podidentity.http_client.errors import (
    ClientConnectorError,
    ClientOSError,
    ConnectionTimeoutError,
    ServerDisconnectedError,
)

IDLE_SECONDS: Final = 15.0
"""How long a connection waits for its next request."""
NEXT_ADDRESS_SECONDS: Final = 0.25
"""How long a connection to one address of a host may take before the next one is tried too (RFC 8305)."""
REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Idempotent methods (RFC 9110 §9.2.2), sent again if the server had closed the kept connection."""
BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods whose requests state no length without a body."""
PORTS: Final = {"http": 80, "https": 443}
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(r"/[!-~]*")
_VALUE: Final = re.compile(r"[^\r\n\0]*")


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class HttpSession:
    """Requests to any server, at most *connections* at a time; others wait. Close it with `close()` or `async with`."""

    def __init__(
        self,
        *,
        connections: int,
        headers: Mapping[str, str],
        tls: SSLContext | None = None,
        server_hostname: str | None = None,
        reuse: bool = True,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """*headers* are sent with the requests that do not have them. *tls* verifies the servers of https URLs, by
        *server_hostname* if it is not the URL's host. Without *reuse* each request has a new connection.
        """
        self._slots = asyncio.Semaphore(connections)
        self._headers = headers
        self._tls = tls
        self._server_hostname = server_hostname
        self._idle_seconds = idle_seconds if reuse else 0.0
        self._idle: dict[HttpConnection, tuple[_Origin, asyncio.TimerHandle]] = {}
        self._connections: set[HttpConnection] = set()
        self._lookups: dict[_Origin, asyncio.Future[list[AddrInfoType]]] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Open responses fail, as do requests that wait for a connection."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # the event loop closes their sockets in its next iteration

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        connect_seconds: float | None = None,
        silence_seconds: float | None = None,
    ) -> Response:
        """Send a request and return its response once its head has arrived. Redirects are not followed.

        *url* is sent as it is, so it must be percent-encoded. *connect_seconds* limit the connection with its TLS
        handshake, *silence_seconds* each wait for the server. Raise HttpClientError; ValueError for invalid arguments.
        """
        origin, target = _split(url)
        if origin.scheme == "https" and self._tls is None:
            raise ValueError("no TLS context to verify the server with")
        own = {name.lower() for name in headers}
        defaults = {name: value for name, value in self._headers.items() if name.lower() not in own}
        fields = {"Host": origin.authority, **defaults, **headers}
        if body is not None or method not in BODILESS:
            fields["Content-Length"] = str(len(body or b""))
        data = _head(method, target, fields) + (body or b"")
        fresh = False
        while True:
            await self._slots.acquire()
            try:
                kept = None if fresh else self._kept(origin)
                connection = kept or await self._connect(origin, connect_seconds)
            except BaseException:
                self._slots.release()
                raise
            # From here on the response releases the slot, by `_finished`.
            response = Response(connection, partial(self._finished, connection, origin), silence_seconds)
            try:
                connection.send(data, response, bodiless=method == "HEAD")
                await response.head()
            except (ServerDisconnectedError, ClientOSError):
                if kept is None or method not in REPEATABLE:
                    raise
                fresh = True  # the server may have closed the other kept connections, too
            except BaseException:
                response.close()
                raise
            else:
                return response

    def _kept(self, origin: _Origin) -> HttpConnection | None:
        # The most recently used one is the least likely to have been closed by the server.
        for connection, (its_origin, timer) in reversed(self._idle.items()):
            if its_origin == origin and connection.usable:
                timer.cancel()
                del self._idle[connection]
                return connection
        return None

    def _finished(self, connection: HttpConnection, origin: _Origin, reusable: bool) -> None:
        self._slots.release()
        if reusable and connection.usable and self._idle_seconds > 0.0:
            timer = asyncio.get_running_loop().call_later(self._idle_seconds, connection.abort)
            self._idle[connection] = origin, timer
        else:
            connection.abort()

    def _lost(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.pop(connection)[1].cancel()

    async def _connect(self, origin: _Origin, seconds: float | None) -> HttpConnection:
        limit = asyncio.timeout(None)
        try:
            addresses = await self._resolved(origin)  # outside of the limit, which is the server's
            async with limit:
                if seconds is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + seconds)
                connection = await self._open(origin, addresses)
        except TimeoutError as error:
            if limit.expired():
                raise ConnectionTimeoutError(f"Connection timeout to host {origin.authority}") from error
            # The time-out of the operating system, which may be shorter.
            raise ClientConnectorError(error) from error
        except OSError as error:
            raise ClientConnectorError(error) from error
        self._connections.add(connection)
        return connection

    async def _open(self, origin: _Origin, addresses: list[AddrInfoType]) -> HttpConnection:
        """Open a connection. Raise OSError, also for TLS."""
        tls = self._tls if origin.scheme == "https" else None
        # Certificates name hosts without the dot at the end of an absolute name.
        name = (self._server_hostname or origin.host.rstrip(".")) if tls is not None else None
        loop = asyncio.get_running_loop()
        opened = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop)
        try:
            _, connection = await loop.create_connection(
                partial(HttpConnection, self._lost), sock=opened, ssl=tls, server_hostname=name
            )
        except BaseException:
            opened.close()
            raise
        if self._closed:
            connection.abort()  # close() has run in the meantime, without this connection
        return connection

    async def _resolved(self, origin: _Origin) -> list[AddrInfoType]:
        """Return the addresses of a host. Concurrent requests share a lookup, which occupies a thread until its end
        even if all of them are cancelled. Raise OSError.
        """
        if self._closed:
            raise ConnectionError("the session is closed")
        lookup = self._lookups.get(origin)
        if lookup is None:
            loop = asyncio.get_running_loop()
            addresses = loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            lookup = self._lookups[origin] = asyncio.ensure_future(cast("Awaitable[list[AddrInfoType]]", addresses))
            lookup.add_done_callback(partial(self._looked_up, origin))
        # A cancelled request must not cancel the lookup of the others.
        return await asyncio.shield(lookup)

    def _looked_up(self, origin: _Origin, lookup: asyncio.Future[list[AddrInfoType]]) -> None:
        del self._lookups[origin]
        with suppress(asyncio.CancelledError):
            lookup.exception()  # else asyncio reports an error that no request waits for


def _split(url: str) -> tuple[_Origin, str]:
    """Return the server of *url*, and its path with the query. Raise ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"not the URL of a server: {url!r}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        raise ValueError("the path of a URL must be percent-encoded")
    return _Origin(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]), target


def _head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Return the head of a request. Raise ValueError for a name or value that would change its framing."""
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"not a method: {method!r}")
    for name, value in fields.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name!r} cannot be sent")
    lines = (f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", "")
    return "\r\n".join(lines).encode()
