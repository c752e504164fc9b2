"""Where the sandbox's nodes and pods are: the interface that both kinds of network share, and the one without root.

`fabric` is the other kind, of real network namespaces. Here every pod is an address of 127.0.0.0/8 and every node is
this machine: no nat rule, so programs are told where to ask, and pods must bind their own address to be told apart.
"""

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from typing_extensions import override

from podidentity_sandbox.serving import listening

T = TypeVar("T")

METADATA_ADDRESS = "169.254.169.254"


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """Where programs run: the address they have, what goes before their command line, and into their environment."""

    address: str
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs *argv* here."""
        return [*self.prefix, *argv]


class Network(Protocol):
    """Nodes and pods with addresses. All calls may block for milliseconds; call them in a thread."""

    redirects: bool
    """Whether pods reach NMI by a nat rule on the metadata address, as on a real node."""

    def start(self) -> None:
        """Make what all nodes share. Raises NamespaceError."""

    def stop(self) -> None:
        """Remove everything. Does nothing the second time."""

    def add_node(self, name: str) -> ExecutionContext:
        """Make a node; its place is that of host-network programs."""

    def add_pod(self, node: str, uid: str) -> ExecutionContext:
        """Give a pod of *node* its own place."""

    def remove_pod(self, node: str, uid: str) -> None:
        """Take the place away. One that is not there is no error."""

    def metadata_socket(self, node: str) -> socket.socket | None:
        """A listening socket at which IMDS is to serve *node*; None when an earlier node's serves it too."""

    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        """Where requests come from that IMDS must take as this node's."""

    def node_sockets(self, node: str, port: int) -> list[socket.socket]:
        """Listening sockets at 127.0.0.1:*port* as programs on *node* see it, where that is not this machine's own."""

    def pod_sockets(self, port: int) -> list[socket.socket]:
        """Listening sockets at `pod_facing_address`:*port*, likewise."""

    def sockets_in_pod(self, uid: str, port: int) -> list[socket.socket]:
        """Listening sockets at 127.0.0.1:*port* as the pod sees it, where that is not this machine's own."""

    def call_in_pod(self, uid: str, function: Callable[[], T]) -> T:
        """As `call_on_node`, in the pod of this uid."""

    def call_on_node(self, node: str, function: Callable[[], T]) -> T:
        """Call *function* as a program of the node's would run: its sockets are the node's. Blocks as it does."""

    pod_facing_address: str
    """The address at which pods reach what the sandbox serves to them."""


class Loopback(Network):
    """The network that needs no rights: pods are 127.x.y.z of this machine."""

    redirects = False
    pod_facing_address = "127.0.0.1"

    def __init__(self) -> None:
        # Two sandboxes of one machine should not share addresses, so that logs can be read; nothing depends on it.
        self._second = 64 + os.getpid() % 128
        self._nodes: dict[str, int] = {}
        self._pods: dict[str, str] = {}
        self._next = 0

    @override
    def start(self) -> None:
        """Nothing is needed."""

    @override
    def stop(self) -> None:
        """Nothing was made."""

    @override
    def add_node(self, name: str) -> ExecutionContext:
        self._nodes[name] = len(self._nodes)
        return ExecutionContext("127.0.0.1")

    @override
    def add_pod(self, node: str, uid: str) -> ExecutionContext:
        if uid not in self._pods:
            self._next += 1
            number = self._next
            self._pods[uid] = f"127.{self._second}.{number // 250 % 250}.{number % 250 + 1}"
        return ExecutionContext(self._pods[uid], environment={"SANDBOX_SOURCE_ADDRESS": self._pods[uid]})

    @override
    def remove_pod(self, node: str, uid: str) -> None:
        self._pods.pop(uid, None)

    @override
    def metadata_socket(self, node: str) -> socket.socket | None:
        # Every node asks from 127.0.0.1, so each gets an IMDS port of its own by which it is known.
        return listening("127.0.0.1")

    @override
    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        return (ipaddress.IPv4Network("127.0.0.0/8"),)

    @override
    def node_sockets(self, node: str, port: int) -> list[socket.socket]:
        return []

    @override
    def pod_sockets(self, port: int) -> list[socket.socket]:
        return []

    @override
    def call_on_node(self, node: str, function: Callable[[], T]) -> T:
        return function()

    @override
    def sockets_in_pod(self, uid: str, port: int) -> list[socket.socket]:
        return []

    @override
    def call_in_pod(self, uid: str, function: Callable[[], T]) -> T:
        return function()
