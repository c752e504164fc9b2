"""Requests to the API server as raw bytes: connections, credentials, a time limit on each request, errors mapped to
`kube.errors`.

Callers never see the exceptions of the HTTP client.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlencode

from podidentity.http_client.errors import ClientConnectorError, ConnectionTimeoutError, HttpClientError
from podidentity.kube import response_limits
from podidentity.kube.access import ClusterAccess
from podidentity.kube.decoding import LongLine
from podidentity.kube.errors import MALFORMED, NoResponse, ServerError, TimedOut, Unauthorized, from_response
from podidentity.kube.sessions import HttpResponse, OpenSession, Session, aiohttp_session
from podidentity.kube.watch_lines import read_lines

V = TypeVar("V")

CONNECTIONS_MAX: Final = 32
"""More connections would only wait in the API server's priority and fairness queues."""
CONNECT_SECONDS: Final = 5.0
"""Less than usual time limits of a request, so that the error about an unreachable address advises no longer limit."""


class Transport:
    """One API server with one connection pool. Close it with `aclose()` or `async with`.

    Every method raises ApiError or a subclass of it. Cancellation ends the request and frees its connection.
    """

    def __init__(
        self,
        access: ClusterAccess,
        *,
        user_agent: str,
        timeout_seconds: float = 30.0,
        connections: int = CONNECTIONS_MAX,
        reuse_connections: bool = True,
        open_session: OpenSession = aiohttp_session,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without *reuse_connections* each request has a new connection, and address lookups are not cached."""
        self.access = access
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        # No compression: decompressing a large list costs more than its transfer in a data centre.
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._reuse_connections = reuse_connections
        self._open_session = open_session
        self._session: Session | None = None
        self._clock = clock
        self._responded_at = -math.inf

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, including open streams. May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def silent_seconds(self) -> float:
        """Return seconds since the API server last began a response with any status; infinite before the first."""
        return self._clock() - self._responded_at

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_seconds: float | None = None,
    ) -> bytes:
        """Return the body of a 2xx response. *timeout_seconds* (default: the client's) covers all of it, including a
        retry after a 401.
        """
        headers = {"Content-Type": content_type} if body is not None else {}

        async def exchange() -> bytes:
            response = await self._send(method, path, params, headers, body)
            try:
                whole, content = await read_body(response, response_limits.BODY_MAX)
            finally:
                response.close()
            if not whole:
                raise ServerError(502, MALFORMED, f"a response of more than {response_limits.BODY_MAX} bytes")
            return content

        return await self.in_time(exchange(), timeout_seconds)

    async def in_time(self, work: Awaitable[V], seconds: float | None = None) -> V:
        """Return the result of *work*. Raises TimedOut after *seconds* (default: the client's), and NoResponse if the
        connection fails.
        """
        seconds = self._timeout_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds):
                return await work
        except ConnectionTimeoutError as error:  # after CONNECT_SECONDS, which may be less than *seconds*
            raise self._unreachable(error) from error
        except TimeoutError as error:
            raise TimedOut(self.access.server, seconds) from error
        except (HttpClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def open_response(self, path: str, params: Mapping[str, str]) -> HttpResponse:
        """Send a GET and return its 2xx response with the body unread, which the caller closes."""
        return await self.in_time(self._send("GET", path, params, {}, None))

    def stream(
        self, path: str, params: Mapping[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | LongLine]]:
        """Send a GET and read its response line by line until it ends; the caller limits silence.

        Of a line of more than LINE_MAX bytes only the object's names are kept. The client's time limit covers the
        response's head. The iterator ends if the server ends the response cleanly, and raises NoResponse if the
        connection breaks. Leaving the context closes the connection.
        """
        return self._stream(path, params)

    @asynccontextmanager
    async def _stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes | LongLine]]:
        response = await self.open_response(path, params)
        lines = read_lines(partial(self._read_chunk, response), self.access.server)
        try:
            yield lines
        finally:
            await lines.aclose()
            response.close()

    async def _read_chunk(self, response: HttpResponse) -> bytes:
        try:
            return await response.readany()
        except (HttpClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> HttpResponse:
        """Return a 2xx response with its body unread. A 401 is retried once with credentials that are read again."""
        try:
            return await self._send_once(method, path, params, headers, body)
        except Unauthorized:
            self.access.forget()
        return await self._send_once(method, path, params, headers, body)

    async def _send_once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> HttpResponse:
        authorization = await self.access.authorization()
        url = self.access.server + path + ("?" + urlencode(params) if params else "")
        response = await self._opened_session().request(
            method,
            url,
            headers={**headers, **({"Authorization": authorization} if authorization else {})},
            body=body,
            connect_seconds=CONNECT_SECONDS,
        )
        self._responded_at = self._clock()
        if 200 <= response.status < 300:
            return response
        try:
            _, content = await read_body(response, response_limits.ERROR_BODY_MAX)
        finally:
            response.close()
        error = from_response(response.status, content, response.headers.get("retry-after", ""))
        error.date = response.headers.get("date", "")
        raise error

    def _opened_session(self) -> Session:
        if self._session is None:
            self._session = self._open_session(
                self.access, connections=self._connections, headers=self._headers, reuse=self._reuse_connections
            )
        return self._session

    def _unreachable(self, error: Exception) -> NoResponse:
        cause = error.os_error if isinstance(error, ClientConnectorError) else error
        return NoResponse(f"cannot reach {self.access.server}: {str(cause) or type(cause).__name__}")


async def read_body(response: HttpResponse, most: int) -> tuple[bool, bytes]:
    """Return whether *most* bytes contain the whole body, and the body or its beginning."""
    chunks: list[bytes] = []
    size = 0
    while size <= most:
        chunk = await response.readany()
        if not chunk:
            return True, b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    return False, b"".join(chunks)
