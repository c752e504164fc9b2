"""The small HTTP servers beside a program's work: /healthz and /readyz for the kubelet, /metrics for Prometheus.

Written on plain asyncio streams: a web framework would cost every node more memory than all of this is worth. One
request a connection, a bounded head, a time limit on everything, a bounded number of connections.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from podidentity.telemetry.metrics import CONTENT_TYPE, expose

log = logging.getLogger(__name__)

HEAD_MAX: Final = 8192
"""Bytes of a request's head; a kubelet's and a Prometheus server's are under 1 kB."""
REQUEST_SECONDS: Final = 5.0
"""From accepting a connection to its last byte. A slower client has no probe or scrape to make."""
CONNECTIONS_MAX: Final = 64
"""Open at once. More are closed at once: whoever opens them is no probe."""
EXPOSED_SECONDS: Final = 1.0
"""A rendered /metrics is shown again for this long, so that nobody makes us render all the time."""

Checks = Mapping[str, str | None]
"""Name of a check -> None, or why it fails."""

_PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_WHY_NOT: Final = {
    errno.EADDRINUSE: "in use",
    errno.EACCES: "not allowed to us",
    errno.EADDRNOTAVAIL: "not an address of this machine",
}


class PortInUse(OSError):  # noqa: N818 - named for what happened
    """The port cannot be listened on; the message is one line and says what to do."""


class HttpEndpoints:
    """One listener. What is None is not served; port 0 takes a free one, which `port` names after `start`.

    `healthz` returns the body of a 200, whatever it says (`Active`, `Not Active`: the reference's interface). `readyz`
    returns named checks; one that fails makes it 503. Both are called in the loop and must not block.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        healthz: Callable[[], str] | None = None,
        readyz: Callable[[], Checks] | None = None,
        registry: CollectorRegistry | None = None,
        flag: str = "",
        request_seconds: float = REQUEST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self.port = port
        self._healthz = healthz
        self._readyz = readyz
        self._registry = registry
        self._flag = flag
        self._request_seconds = request_seconds
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._exposed = b""
        self._exposed_at = float("-inf")

    async def start(self) -> None:
        """Listen. Raises PortInUse where that is not possible."""
        try:
            self._server = await asyncio.start_server(self._accept, self._host or None, self.port, limit=HEAD_MAX)
        except OSError as error:
            advice = f"choose another with {self._flag}" if self._flag else "choose another port"
            why = _WHY_NOT.get(error.errno or 0, "unusable")
            raise PortInUse(error.errno, f"{self._host}:{self.port} is {why}: {advice}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection. May be called twice, and without a start."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer), name="probe")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._request_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a client's own doing, which it sees and nobody else needs to
        finally:
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        """The whole answer to a request's head."""
        method, _, rest = head.partition(b" ")
        target, _, version = rest.partition(b"\r\n")[0].partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _rendered(400, b"a request of HTTP/1.1 is expected\n", with_body=True)
        with_body = method != b"HEAD"
        if method not in {b"GET", b"HEAD"}:
            return _rendered(405, b"only GET and HEAD\n", with_body=True, extra="Allow: GET, HEAD\r\n")
        try:
            status, body, content_type = self._page(target.partition(b"?")[0])
        except Exception:
            log.exception("a probe or metrics page failed; report this as a bug")
            status, body, content_type = 500, b"failed, see the log\n", "text/plain"
        return _rendered(status, body, content_type, with_body=with_body)

    def _page(self, path: bytes) -> tuple[int, bytes, str]:
        plain = "text/plain; charset=utf-8"
        if path == b"/healthz" and self._healthz is not None:
            return 200, self._healthz().encode(), plain
        if path == b"/readyz" and self._readyz is not None:
            checks = self._readyz()
            lines = [f"[+]{name} ok\n" if why is None else f"[-]{name}: {why}\n" for name, why in checks.items()]
            ready = all(why is None for why in checks.values())
            return 200 if ready else 503, "".join([*lines, "ready\n" if ready else "not ready\n"]).encode(), plain
        if path == b"/metrics" and self._registry is not None:
            if self._clock() >= self._exposed_at + EXPOSED_SECONDS:
                self._exposed, self._exposed_at = expose(self._registry), self._clock()
            return 200, self._exposed, CONTENT_TYPE
        return 404, b"not here\n", plain


def _rendered(status: int, body: bytes, content_type: str = "text/plain", *, with_body: bool, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
