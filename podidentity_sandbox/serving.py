"""The base of the emulators, whatever they serve: an HTTP server on given sockets, and faults of its responses."""

import abc
import asyncio
import contextlib
import errno
import functools
import itertools
import json
import os
import random
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from typing_extensions import override

PORT_BLOCKS: Final = range(12_000, 20_000, 80)
"""The first ports of the blocks of `free_ports`, below the ephemeral range."""


@dataclass(kw_only=True)
class ResponseFault:
    """A fault of the next *times* requests that it matches, instead of the proper response."""

    status: int | None = None
    """The status of the response; None: respond properly after the delay."""
    document: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    hold: bool = False
    """Whether a request waits until the fault is removed; then it is answered properly."""
    times: float = 1
    """The number of requests; `math.inf` for all until it is removed."""
    method: str = ""
    """Only requests of this method; empty: any."""
    path: str = ""
    """Only requests whose path contains this, letter case aside; empty: any."""
    removed: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    def matches(self, request: web.BaseRequest) -> bool:
        return (
            self.times > 0
            and self.method in {"", request.method}
            and (not self.path or self.path.lower() in request.path.lower())
        )


class ResponseFaults:
    """The pending faults, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: list[ResponseFault] = []

    def add(self, fault: ResponseFault) -> ResponseFault:
        """Add a fault and return it. `remove` takes it back."""
        self._faults.append(fault)
        return fault

    def remove(self, fault: ResponseFault) -> None:
        """Remove one fault. A fault that is not in the list is no error."""
        self._faults = [pending for pending in self._faults if pending is not fault]
        fault.removed.set()

    def clear(self) -> None:
        """Remove all faults."""
        for fault in tuple(self._faults):
            self.remove(fault)

    async def apply(self, request: web.BaseRequest) -> web.Response | None:
        """Apply the first fault that matches *request*. Return its response, or None for the proper one."""
        fault = next((fault for fault in self._faults if fault.matches(request)), None)
        if fault is None:
            return None
        fault.times -= 1
        if fault.hold:
            await fault.removed.wait()
            return None
        if fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        if fault.status is None:
            return None
        return json_response(fault.document, status=fault.status, headers=fault.headers)


def json_response(
    document: Mapping[str, Any] | Sequence[Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return *document* as a JSON response."""
    return web.Response(
        body=json.dumps(document, separators=(",", ":")).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


def free_ports(count: int) -> list[int]:
    """Return ports for programs that are started later.

    They are below the ephemeral range, so that no outgoing connection takes one, and no other caller of this function
    gets them before they are free again: each process takes the ports of its own block one after the other. Raise
    OSError if the machine has no free block or the block has fewer free ports.
    """
    ports = _port_block(os.getpid()).take(count)
    if len(ports) < count:
        raise OSError(errno.EADDRINUSE, f"fewer than {count} free ports in the block of this process")
    return ports


class _PortBlock:
    """Consecutive ports that one process of this machine hands out: the one that listens on the first of them."""

    def __init__(self) -> None:
        for first in random.sample(PORT_BLOCKS, len(PORT_BLOCKS)):
            if _listen_until_the_end(first):
                self._next = itertools.cycle(range(first + 1, first + PORT_BLOCKS.step))
                return
        raise OSError(errno.EADDRINUSE, f"no free block of ports from {PORT_BLOCKS.start} to {PORT_BLOCKS.stop}")

    def take(self, count: int) -> list[int]:
        """Return the next *count* ports of the block on which no program listens."""
        ports: list[int] = []
        for port in itertools.islice(self._next, PORT_BLOCKS.step - 1):
            with contextlib.suppress(OSError), socket.create_server(("", port)) as probe:
                # A child that another thread forks has a copy until it executes a program: it must not listen.
                probe.shutdown(socket.SHUT_RDWR)
                ports.append(port)
            if len(ports) == count:
                break
        return ports


def _listen_until_the_end(port: int) -> bool:
    """Listen on *port* until this process ends. Return False if the port is taken."""
    with socket.socket() as guard:  # without SO_REUSEADDR, so that a second process cannot bind the port
        try:
            guard.bind(("", port))
            guard.listen(1)
        except OSError:
            return False
        guard.detach()
    return True


@functools.cache
def _port_block(pid: int) -> _PortBlock:
    """Return the block of the process *pid*, which is this process: a forked process takes another one."""
    del pid
    return _PortBlock()


def listening(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Return a listening TCP socket in the calling thread's network namespace. The caller closes it.

    Raise OSError if the address does not exist or the port is taken.
    """
    return bound((host, port), socket.AF_INET6 if ":" in host else socket.AF_INET)


def bound(
    address: tuple[str, int] | str,
    family: socket.AddressFamily = socket.AF_INET,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    """Return a bound socket, a listening one unless it is for datagrams, as `listening` does."""
    made = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen(512)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def restartable_listener(host: str, port: int = 0) -> socket.socket:
    """Return a listening TCP socket on *port* (0: one of `free_ports`). The caller closes it.

    After that a server can listen on the same port again, because no outgoing connection takes it. Until then clients
    are refused. Raise OSError if the address does not exist or the port is taken.
    """
    return listening(host, port or free_ports(1)[0])


async def serve(runner: web.ServerRunner, listener: socket.socket, ssl_context: ssl.SSLContext | None = None) -> None:
    """Serve on *listener*, which *runner* then owns. Close it if that fails."""
    try:
        await web.SockSite(runner, listener, ssl_context=ssl_context, backlog=512).start()
    except BaseException:
        # A start that is cancelled may have begun to accept connections.
        if listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(listener)
        listener.close()
        raise


class HttpService(abc.ABC):
    """An HTTP or HTTPS server that calls `respond` for each request."""

    scheme = "http"
    stop_seconds = 0.5
    """How long an open request may hold up the end of a sandbox."""
    conditions: Sequence[str] = ()
    """The faults that the service has in addition to those of its responses."""
    condition = ""
    """The current one of *conditions*; empty: none."""

    def __init__(self) -> None:
        self.faults = ResponseFaults()
        self.host = ""
        self.port = 0
        self._runner: web.ServerRunner | None = None
        self._ssl_context: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """The URL of the first socket, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Listen on *host*:*port*: without *port* on the one of last time, or on one of `free_ports`.

        With *ssl_context* everything is spoken over TLS. Raise OSError when the port is taken.
        """
        if self._runner is not None:
            raise RuntimeError("already started")
        runner = web.ServerRunner(self.http(), shutdown_timeout=self.stop_seconds)
        await runner.setup()
        listener = restartable_listener(host, port or self.port)
        self.host, self.port = listener.getsockname()[:2]
        self.scheme = "https" if ssl_context else "http"
        self._ssl_context = ssl_context
        self._runner = runner
        await self.listen(listener)

    def http(self) -> web.Server:
        """Return a factory of protocols that answer the requests of one connection each, as `start` uses it."""
        return web.Server(self.respond, access_log=None)

    async def listen(self, listener: socket.socket) -> None:
        """Serve on one more socket, which this service then owns. If it cannot serve, it closes the socket."""
        if self._runner is None:
            raise RuntimeError("start the service before giving it another socket")
        await serve(self._runner, listener, self._ssl_context)

    def drop_connections(self) -> None:
        """Close the connections that are open, so that clients connect again."""
        server = self._runner.server if self._runner is not None else None
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        """Close all listeners and connections. Does nothing the second time."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def set_condition(self, condition: str) -> None:
        """Start one of *conditions* in place of the former one; empty: end it."""
        self.condition = condition

    @abc.abstractmethod
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to one request."""


class FaultyService(HttpService):
    """An HTTP server that calls `handle` for each request without a fault."""

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self.faults.apply(request) or await self.handle(request)
        except ConnectionResetError:
            # The client went away, for example during a fault. No client gets this; aiohttp would print a traceback.
            return web.Response(status=400)

    @abc.abstractmethod
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the proper response to one request."""
