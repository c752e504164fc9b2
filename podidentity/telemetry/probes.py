"""HTTP servers for probes and metrics: /healthz and /readyz for the kubelet, /metrics for Prometheus, and /debug/… for
users on the machine.

They use plain asyncio streams, because a web framework would take more memory on every node. Each connection serves one
request, with a limited head, a time limit and a limited number of connections.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from podidentity.telemetry.metrics import CONTENT_TYPE, expose

log = logging.getLogger(__name__)

BACKLOG: Final = 512
"""Backlog of accepted connections in the kernel: a burst of connections must not drop a probe's SYN, which is repeated
only after the probe's timeout of a second. The event loop accepts as many per iteration.
"""
HEAD_MAX: Final = 8192
"""Maximum size of a request's head in bytes; those of kubelets and Prometheus are under 1 kB."""
REQUEST_SECONDS: Final = 5.0
"""Time limit from accepting a connection to its last byte, more than probes and scrapes need."""
CONNECTIONS_MAX: Final = 64
"""Maximum number of open connections. One more closes the oldest of the peer with the most: every pod can reach these
ports, and if one could use all connections, the kubelet's probe would fail and the kubelet would restart the program.
"""
CONNECTIONS_OF_ONE_PEER: Final = 8
"""Maximum number per address; one more closes the oldest of that address."""
EXPOSED_SECONDS: Final = 1.0
"""Time for which a rendered /metrics is reused, so that clients cannot cause continuous rendering."""

PROFILE_SECONDS_MAX: Final = 60
"""Maximum duration of one profile."""

READINESS: Final = (b"/healthz", b"readiness")
"""Path and query that return /readyz. A new NMI whose ports an NMI of the Go implementation still uses must be Ready by
the responses of that one, because a rollout deletes it only then. It serves no page but /healthz, and ignores a query.
reference: pkg/probes/probes.go.
"""

_PLAIN: Final = "text/plain; charset=utf-8"
_SECONDS: Final = re.compile(rb"(?:[^&]*&)*seconds=([0-9]{1,4})(?:&.*)?")

Checks = Mapping[str, str | None]
"""Name of a check -> None, or the reason of its failure."""

_PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_BIND_FAILURES: Final = {
    errno.EADDRINUSE: "in use",
    errno.EACCES: "not allowed to us",
    errno.EADDRNOTAVAIL: "not an address of this machine",
}


class PortInUse(OSError):  # noqa: N818 - named for what happened
    """The port cannot be used; the message is one line with the next action."""


class HttpEndpoints:
    """One listener. A page whose argument is None is not served. Port 0 selects a free port, which `port` returns after
    `start`.

    `healthz` returns the body of a 200 (`Active`, `Not Active`: the Go implementation's interface). `readyz` returns
    named checks; a failed check gives a 503. `notes` returns text about checks by their names, which /readyz appends in
    parentheses. `state` returns the content of /debug/state, ready for JSON. All run in
    the event loop and must not block. `profile`, called with a number of seconds, returns the content of
    /debug/profile. Pages under /debug are only served to processes on this machine's loopback.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        healthz: Callable[[], str] | None = None,
        readyz: Callable[[], Checks] | None = None,
        notes: Callable[[], Mapping[str, str]] | None = None,
        registry: CollectorRegistry | None = None,
        state: Callable[[], Mapping[str, object]] | None = None,
        profile: Callable[[float], Awaitable[str]] | None = None,
        flag: str = "",
        request_seconds: float = REQUEST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self.port = port
        self._healthz = healthz
        self._readyz = readyz
        self._notes = notes
        self._registry = registry
        self._state = state
        self._profile = profile
        self._flag = flag
        self._request_seconds = request_seconds
        self._clock = clock
        self._servers: list[asyncio.Server] = []
        self._connections: dict[str, dict[asyncio.Task[None], asyncio.StreamWriter]] = {}
        """By the peer's address, oldest first."""
        self._exposed = b""
        self._exposed_at = float("-inf")

    async def start(self, sockets: Sequence[socket.socket] = ()) -> None:
        """Start to listen: at *sockets*, which it then owns, or at the port. Raises PortInUse."""
        if sockets:
            self._servers = [
                await asyncio.start_server(self._accept, sock=listener, limit=HEAD_MAX, backlog=BACKLOG)
                for listener in sockets
            ]
            return
        try:
            server = await asyncio.start_server(
                self._accept, self._host or None, self.port, limit=HEAD_MAX, backlog=BACKLOG
            )
        except OSError as error:
            advice = f"choose another with {self._flag}" if self._flag else "choose another port"
            reason = _BIND_FAILURES.get(error.errno or 0, "unusable")
            raise PortInUse(error.errno, f"{self._host}:{self.port} is {reason}: {advice}") from error
        self._servers = [server]
        self.port = server.sockets[0].getsockname()[1]

    def pause(self) -> list[socket.socket]:
        """Stop accepting and return the listening sockets, which the caller owns: connections wait in the kernel.

        Open connections are served. start() with the sockets undoes it.
        """
        servers, self._servers = self._servers, []
        # Copies, because a server closes its own sockets.
        sockets = [socket.socket(fileno=os.dup(listener.fileno())) for server in servers for listener in server.sockets]
        for server in servers:
            server.close()
        return sockets

    async def stop(self) -> None:
        """Stop listening and close every connection. May be called twice, and without a start."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        open_now = [connection for several in self._connections.values() for connection in several]
        for connection in open_now:
            connection.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        for server in servers:
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        named = writer.get_extra_info("peername")
        peer = str(named[0]) if isinstance(named, tuple) else ""
        if len(self._connections.get(peer, ())) >= CONNECTIONS_OF_ONE_PEER:
            self._make_room(peer)
        elif sum(map(len, self._connections.values())) >= CONNECTIONS_MAX:
            self._make_room(max(self._connections, key=lambda address: len(self._connections[address])))
        connection = asyncio.create_task(self._serve(reader, writer), name="probe")
        self._connections.setdefault(peer, {})[connection] = writer
        connection.add_done_callback(lambda ended: self._forget(peer, ended))

    def _make_room(self, peer: str) -> None:
        """Close the oldest connection of *peer*, which has at least one."""
        oldest, writer = next(iter(self._connections[peer].items()))
        writer.transport.abort()  # a task that has not started would not do it
        oldest.cancel()
        self._forget(peer, oldest)

    def _forget(self, peer: str, connection: asyncio.Task[None]) -> None:
        several = self._connections.get(peer, {})
        several.pop(connection, None)
        if not several:
            self._connections.pop(peer, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._request_seconds) as limit:
                head = await reader.readuntil(b"\r\n\r\n")
                local = _is_local(writer.get_extra_info("peername"))
                seconds = self._profile_seconds(head) if local else 0
                if seconds and self._profile is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + seconds + self._request_seconds)
                    writer.write(_rendered(200, (await self._profile(seconds)).encode(), _PLAIN, with_body=True))
                else:
                    writer.write(self._response(head, local=local))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # caused by the client itself, which sees the result
        finally:
            writer.transport.abort()

    def _profile_seconds(self, head: bytes) -> int:
        """Return the duration of the requested profile; 0 if none is requested or served."""
        target = head.partition(b"\r\n")[0].removeprefix(b"GET ")
        path, _, query = target.partition(b" ")[0].partition(b"?")
        if self._profile is None or path != b"/debug/profile":
            return 0
        match = _SECONDS.fullmatch(query)
        return max(1, min(int(match[1]), PROFILE_SECONDS_MAX)) if match else 10

    def _response(self, head: bytes, *, local: bool) -> bytes:
        """Return the whole response to a request's head."""
        method, _, rest = head.partition(b" ")
        target, _, version = rest.partition(b"\r\n")[0].partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _rendered(400, b"a request of HTTP/1.1 is expected\n", with_body=True)
        with_body = method != b"HEAD"
        if method not in {b"GET", b"HEAD"}:
            return _rendered(405, b"only GET and HEAD\n", with_body=True, extra="Allow: GET, HEAD\r\n")
        try:
            path, _, query = target.partition(b"?")
            if (path, query) == READINESS:
                path = b"/readyz"
            status, body, content_type = self._page(path, local=local)
        except Exception:
            log.exception("a probe or metrics page failed; report this as a bug")
            status, body, content_type = 500, b"failed, see the log\n", "text/plain"
        return _rendered(status, body, content_type, with_body=with_body)

    def _page(self, path: bytes, *, local: bool) -> tuple[int, bytes, str]:
        if path == b"/healthz" and self._healthz is not None:
            return 200, self._healthz().encode(), _PLAIN
        if path == b"/readyz" and self._readyz is not None:
            checks = self._readyz()
            notes = {name: f" ({note})" for name, note in (self._notes() if self._notes is not None else {}).items()}
            lines = [
                f"{f'[+]{name} ok' if failure is None else f'[-]{name}: {failure}'}{notes.get(name, '')}\n"
                for name, failure in checks.items()
            ]
            ready = all(failure is None for failure in checks.values())
            return 200 if ready else 503, "".join([*lines, "ready\n" if ready else "not ready\n"]).encode(), _PLAIN
        if path == b"/metrics" and self._registry is not None:
            if self._clock() >= self._exposed_at + EXPOSED_SECONDS:
                self._exposed, self._exposed_at = expose(self._registry), self._clock()
            return 200, self._exposed, CONTENT_TYPE
        if path == b"/debug/state" and self._state is not None:
            # Every pod can reach this port, and the state concerns all of them.
            if not local:
                return 403, b"only for processes on this machine: ask 127.0.0.1\n", _PLAIN
            body = msgspec.json.format(msgspec.json.encode(self._state()), indent=2) + b"\n"
            return 200, body, "application/json"
        return 404, b"not here\n", _PLAIN


def _rendered(status: int, body: bytes, content_type: str = "text/plain", *, with_body: bool, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")


def _is_local(peer: object) -> bool:
    """Return whether a peer address, as a socket reports it, is a loopback address."""
    if not isinstance(peer, tuple):
        return False
    # A link-local address of IPv6 has its interface behind a "%". A listener of IPv6 reports ::ffff:127.0.0.1 for IPv4.
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
