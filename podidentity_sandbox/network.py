"""The networks of the sandbox's nodes and pods: the common interface, and the implementation without root.

`fabric` is the implementation with network namespaces. Here every pod is an address in 127.0.0.0/8 and every node is
this machine. There is no nat rule: programs get NMI's address by configuration, and pods bind their own address.
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
    """The address, command prefix and environment of a program in the sandbox."""

    address: str
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs *argv* in this context."""
        return [*self.prefix, *argv]


class Network(Protocol):
    """Nodes and pods with addresses. All calls may block for milliseconds; call them in a thread."""

    redirects: bool
    """Whether pods reach NMI by a nat rule on the metadata address, as on a real node."""

    def start(self) -> None:
        """Create what all nodes share. Raise NamespaceError."""

    def stop(self) -> None:
        """Remove everything. Does nothing the second time."""

    def add_node(self, name: str) -> ExecutionContext:
        """Create a node; return the context of host-network programs."""

    def add_pod(self, node: str, uid: str) -> ExecutionContext:
        """Create the context of a pod of *node*."""

    def remove_pod(self, node: str, uid: str) -> None:
        """Remove the context. Do nothing if it does not exist."""

    def metadata_socket(self, node: str) -> socket.socket | None:
        """Return a listening socket for the node's IMDS; None if the socket of an earlier node serves it."""

    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        """Return the source addresses of this node's requests to IMDS."""

    def node_sockets(self, node: str, port: int) -> list[socket.socket]:
        """Return sockets at 127.0.0.1:*port* of the node, if that is not this machine's own loopback."""

    def pod_sockets(self, port: int) -> list[socket.socket]:
        """Return listening sockets at `pod_facing_address`:*port*, if that is not this machine's own."""

    def name_server_sockets(self, port: int) -> list[socket.socket]:
        """Return UDP sockets at `pod_facing_address`:*port*, at which pods request addresses of names."""

    def sockets_in_pod(self, uid: str, port: int) -> list[socket.socket]:
        """Return sockets at 127.0.0.1:*port* of the pod, if that is not this machine's own loopback."""

    def call_in_pod(self, uid: str, function: Callable[[], T]) -> T:
        """Call *function* with the sockets of the pod of this uid."""

    def call_on_node(self, node: str, function: Callable[[], T]) -> T:
        """Call *function* with the sockets of the node. Block while it runs."""

    pod_facing_address: str
    """The address of the sandbox's servers for pods."""


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
        """Do nothing."""

    @override
    def stop(self) -> None:
        """Do nothing."""

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
        # Every node sends requests from 127.0.0.1, so a separate IMDS port identifies each.
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
    def name_server_sockets(self, port: int) -> list[socket.socket]:
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
