"""The service of one NMI for its node: the redirect, the token server, and the pages of probes and metrics.

A handover passes it to another NMI.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from nmi.choices import RedirectTarget
from nmi.handover.messages import VERSIONS, Hello, SocketName, shared_sockets
from nmi.handover.predecessor import Predecessor
from nmi.handover.takeover import Takeover
from nmi.node.redirect_choice import Backend, RedirectChoice
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.server.server import Server
from nmi.setting_table import ANY_ADDRESS
from nmi.settings import NmiSettings
from podidentity.exits import StartError
from podidentity.telemetry.probes import HttpEndpoints
from podidentity.version import VERSION

log = logging.getLogger(__name__)

BACKLOG: Final = 4096
"""Connections that the kernel queues; it limits this to net.core.somaxconn."""
LEAVE_SECONDS: Final = 3.0
"""How long an NMI with the target `loopback` serves the listener on the node's address that it got from a former NMI:
connections that the former rule redirected may wait there.
"""


class NodeService:
    """Implements `nmi.handover.predecessor.HandoverService`. *pages* are the endpoints by the name of their sockets.

    With the redirect target `node` there are two listeners with one port: the one of the settings, on loopback, and one
    on the node's own address, *node_address*.
    """

    def __init__(
        self,
        settings: NmiSettings,
        redirect: TrafficRedirect,
        pages: Mapping[SocketName, HttpEndpoints],
        tasks: asyncio.TaskGroup,
        *,
        node_address: str | None,
        tokens: Callable[[], Iterator[bytes]],
        on_retired: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._redirect = redirect
        self._pages = pages
        self._tasks = tasks
        self.tokens = tokens
        self._on_retired = on_retired
        self._node_address = node_address
        self._maintaining: asyncio.Task[None] | None = None
        self._duplicates: dict[SocketName, list[socket.socket]] = {}
        """Duplicates of the sockets that a successor uses."""
        self.listener: socket.socket | None = None
        self.node_listener: socket.socket | None = None
        self.server: Server | None = None
        self.active = False

    def hello(self) -> Hello:
        """Return this NMI's first message to the NMI that serves."""
        settings = self._settings
        return Hello(
            versions=VERSIONS,
            release=VERSION,
            listen_address=settings.listen_address,
            listen_port=settings.listen_port,
            probe_port=settings.probe_port,
            metrics_port=settings.metrics_port,
            node_address=self._node_address or "",
        )

    async def bind(self, name: SocketName, sockets: Sequence[socket.socket] = ()) -> None:
        """Own the socket: the given ones, or one at the port of the settings. Raise PortInUse and StartError."""
        if name == "node_listener":
            (self.node_listener,) = sockets
            self.node_listener.setblocking(False)
        elif name != "listener":
            await self._pages[name].start(sockets)
        elif sockets:
            (self.listener,) = sockets
            self.listener.setblocking(False)
        else:
            self.listener = bound(self._settings.listen_address, self._settings.listen_port)

    def maintain(self) -> None:
        """Maintain the rules until stop_maintaining()."""
        self._maintaining = self._tasks.create_task(self._redirect.maintain(), name="maintain the rules")

    async def stop_maintaining(self) -> None:
        """Return when no rule is changed any more. Idempotent."""
        maintaining, self._maintaining = self._maintaining, None
        if maintaining is not None:
            maintaining.cancel()
            await asyncio.wait([maintaining])

    async def listen(self) -> None:
        """Redirect the pods to the listener, where connections wait until serve(). Raise StartError."""
        assert self.listener is not None  # noqa: S101  the caller has bound it
        address = self._served_node_address
        if address is not None and self.node_listener is None:
            self.node_listener = bound(address, self._settings.listen_port)
        for listener in self._listeners:
            listener.listen(BACKLOG)
        await self._redirect.install()

    async def serve(self, server: Server) -> None:
        """Serve tokens on the listeners."""
        assert self.listener is not None  # noqa: S101
        await server.start(self.listener)
        self.server = server
        if self.node_listener is not None:
            server.listen_on_node(self.node_listener, self._redirected_from)
            if self._served_node_address is None:
                self._tasks.create_task(self._leave_node_address(), name="leave the node's address")

    def stop_accepting(self) -> None:
        """Refuse connections from now on. Open ones are served."""
        if self.server is not None:
            self.server.stop_accepting()
            # Immediately, instead of at the exit; that of the settings last: an NMI without a handover waits for it.
            for listener in reversed(self._listeners):
                listener.close()

    def close(self) -> None:
        """Close every socket that is not closed yet."""
        duplicates = [sock for sockets in self._duplicates.values() for sock in sockets]
        for sock in (*duplicates, *self._listeners):
            sock.close()

    @property
    def _listeners(self) -> tuple[socket.socket, ...]:
        return tuple(listener for listener in (self.listener, self.node_listener) if listener is not None)

    @property
    def _choice(self) -> RedirectChoice | None:
        return self._redirect.choice

    @property
    def _served_node_address(self) -> str | None:
        """The node's address, if this NMI serves redirected connections there. A listener on every address does."""
        choice = self._choice
        # A second listener cannot bind a port that a listener on every address has.
        if choice is None or choice.target is not RedirectTarget.NODE or self._settings.listen_address == ANY_ADDRESS:
            return None
        return self._node_address

    @property
    def _redirected_from(self) -> tuple[str, int] | None:
        """The only original destination of connections to the node's address that are served.

        None for Cilium, which translates addresses outside of netfilter: the kernel reports no original destination.
        """
        if self._choice is not None and self._choice.backend is Backend.CILIUM:
            return None
        return self._settings.metadata_ip, self._settings.metadata_port

    async def _leave_node_address(self) -> None:
        await asyncio.sleep(LEAVE_SECONDS)
        if self.node_listener is not None:
            if self.server is not None:
                self.server.stop_accepting(self.node_listener)
            self.node_listener.close()
            self.node_listener = None

    # For the successor.

    def shared(self, hello: Hello) -> tuple[SocketName, ...]:
        settings = self._settings
        listen = (settings.listen_address, settings.listen_port)
        served = self._served_node_address or ""
        return shared_sockets(hello, listen, settings.probe_port, settings.metrics_port, served)

    async def pause(self, shared: Sequence[SocketName]) -> list[tuple[SocketName, socket.socket]]:
        # Two NMIs that maintain different targets would undo each other's rule.
        await self.stop_maintaining()
        passed: list[tuple[SocketName, socket.socket]] = []
        for name in shared:
            if name in {"listener", "node_listener"}:
                listener = self.listener if name == "listener" else self.node_listener
                # A listener that is not shared continues: only this NMI can serve the connections that wait there.
                if self.server is not None and listener is not None:
                    self.server.stop_accepting(listener)
                    self._duplicates[name] = []
                    passed.append((name, listener.dup()))
            else:
                self._duplicates[name] = self._pages[name].pause()
                passed += [(name, sock.dup()) for sock in self._duplicates[name]]
        return passed

    async def resume(self) -> None:
        for name, sockets in self._duplicates.items():
            if name not in {"listener", "node_listener"}:
                await self._pages[name].start(sockets)
        if self.server is not None and "listener" in self._duplicates and self.listener is not None:
            self.server.accept_again(self.listener)
        if self.server is not None and "node_listener" in self._duplicates and self.node_listener is not None:
            self.server.listen_on_node(self.node_listener, self._redirected_from)
        self._duplicates = {}
        self.maintain()
        # The successor may have changed the target of the rule.
        await self._redirect.install()
        self.active = True

    def retire(self) -> None:
        self.active = False
        self._on_retired()

    @property
    def open_connections(self) -> int:
        return self.server.counters()["open"] if self.server is not None else 0

    def release_idle(self, most: int) -> list[int]:
        return self.server.release_idle(most) if self.server is not None else []

    def adopt(self, descriptor: int) -> None:
        if self.server is not None:
            self.server.adopt(descriptor)


class Serving(NamedTuple):
    """The service of this NMI, and its part in the handovers from the NMI before it and to the one after it."""

    service: NodeService
    takeover: Takeover
    predecessor: Predecessor | None
    """None without --handover-socket."""


def bound(address: str, port: int) -> socket.socket:
    """Return a socket bound to the address that does not listen yet, so connections are refused. Raise StartError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # Connections of a former NMI in TIME_WAIT must not delay the start.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {address}:{port}: {error.strerror}; end the program that uses the port (another "
            f"NMI?), or choose another with --nmi-port and --nmi-listen-address"
        ) from error
    return listener


def is_in_use(error: StartError | OSError) -> bool:
    """Return whether another program has the port."""
    cause = error.__cause__ if isinstance(error, StartError) else error
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
