"""An HTTP proxy that answers some requests itself and forwards the others.

In front of a plain server it needs nothing else. In front of a TLS server it needs a certificate to serve and the
authority of the upstream server.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp import web

from podidentity_sandbox.serving import restartable_listener

CHUNK: Final = 65536
STOP_SECONDS: Final = 1.0
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers of one connection, not of the message (RFC 9110, 7.6.1): each side of the proxy has its own."""


@dataclass(frozen=True, slots=True)
class FakeResponse:
    """A response instead of the server's own."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


class StatusProxy:
    """Passes requests on to *upstream* (http://host:port), or returns the responses set with `respond`."""

    def __init__(
        self,
        upstream: str,
        *,
        upstream_tls: ssl.SSLContext | None = None,
        serving_tls: ssl.SSLContext | None = None,
    ) -> None:
        self.upstream = upstream.rstrip("/")
        self.responses: Counter[int] = Counter()
        """The number of responses that the server itself returned, by status."""
        self.passed = 0
        """Requests passed on."""
        self._upstream_tls = upstream_tls
        self._serving_tls = serving_tls
        self._rules: list[_Rule] = []
        self._host = ""
        self._port = 0
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http{'s' if self._serving_tls else ''}://{self._host}:{self._port}"

    def respond(
        self,
        response: FakeResponse,
        *,
        times: int | None = None,
        matching: Callable[[str, str], bool] = lambda _method, _path: True,
    ) -> None:
        """Answer requests that *matching* (method, path with query) picks, *times* times or until `clear`.

        The rule set first wins.
        """
        self._rules.append(_Rule(response, times, matching))

    def clear(self) -> None:
        """Remove all rules, so that every request is forwarded."""
        self._rules.clear()

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, extra_sockets: Iterable[socket.socket] = ()
    ) -> None:
        """Listen: without *port* on the one of last time, or on a free one. Raise OSError if it is taken.

        *extra_sockets* belong to the proxy.
        """
        listener = restartable_listener(host, port or self._port)
        self._host, self._port = host, listener.getsockname()[1]
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=STOP_SECONDS)
        await self._runner.setup()
        for sock in (listener, *extra_sockets):
            await web.SockSite(self._runner, sock, ssl_context=self._serving_tls).start()

    async def stop(self) -> None:
        """End every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fake = self._take(request.method, request.path_qs)
        if fake is None:
            return await self._pass(request)
        await request.read()
        if fake.delay_seconds:
            await asyncio.sleep(fake.delay_seconds)
        self.responses[fake.status] += 1
        return web.Response(status=fake.status, body=fake.body, headers=fake.headers)

    def _take(self, method: str, path: str) -> FakeResponse | None:
        for rule in self._rules:
            if rule.left != 0 and rule.matching(method, path):
                rule.left = None if rule.left is None else rule.left - 1
                return rule.response
        return None

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._session is None:
            raise RuntimeError("not started")
        self.passed += 1
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        try:
            async with self._session.request(
                request.method,
                self.upstream + request.raw_path,
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
                ssl=self._upstream_tls or True,
            ) as behind:
                kept = [(name, value) for name, value in behind.headers.items() if name.lower() not in _HOP_BY_HOP]
                response = web.StreamResponse(status=behind.status, reason=behind.reason)
                response.headers.extend(kept)
                await response.prepare(request)
                async for chunk in behind.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientConnectionError:
            # The proxy has no response of the server: it ends the connection, as the server would.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)


@dataclass(eq=False)
class _Rule:
    response: FakeResponse
    left: int | None
    matching: Callable[[str, str], bool]
