"""The networks of the sandbox's nodes and pods.

`Network` needs no rights: every pod is an address in 127.0.0.0/8 and every node is this machine. There is no nat rule:
programs get NMI's address by configuration, and pods bind their own address. `fabric` overrides all of it with network
namespaces.
"""

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

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


class Network:
    """Nodes and pods with addresses. All calls may block for milliseconds; call them in a thread."""

    redirects = False
    """Whether pods reach NMI by a nat rule on the metadata address, as on a real node."""
    pod_facing_address = "127.0.0.1"
    """The address of the sandbox's servers for pods."""

    def __init__(self) -> None:
        # Two sandboxes of one machine should not share addresses, so that logs can be read; nothing depends on it.
        self._second = 64 + os.getpid() % 128
        self._addresses: dict[str, str] = {}
        self._next = 0

    def start(self) -> None:
        """Create what all nodes share. Raise NamespaceError."""

    def stop(self) -> None:
        """Remove everything. Does nothing the second time."""

    def add_node(self, name: str) -> ExecutionContext:
        """Create a node; return the context of host-network programs."""
        del name
        return ExecutionContext("127.0.0.1")

    def add_pod(self, node: str, uid: str) -> ExecutionContext:
        """Create the context of a pod of *node*."""
        del node
        if uid not in self._addresses:
            self._next += 1
            number = self._next
            self._addresses[uid] = f"127.{self._second}.{number // 250 % 250}.{number % 250 + 1}"
        address = self._addresses[uid]
        return ExecutionContext(address, environment={"SANDBOX_SOURCE_ADDRESS": address})

    def remove_pod(self, node: str, uid: str) -> None:
        """Remove the context. Do nothing if it does not exist."""
        del node
        self._addresses.pop(uid, None)

    def metadata_socket(self, node: str) -> socket.socket | None:
        """Return a listening socket for the node's IMDS; None if the socket of an earlier node serves it."""
        del node
        # Every node sends requests from 127.0.0.1, so a separate IMDS port identifies each.
        return listening("127.0.0.1")

    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        """Return the source addresses of this node's requests to IMDS."""
        del node
        return (ipaddress.IPv4Network("127.0.0.0/8"),)

    def node_sockets(self, node: str, port: int) -> list[socket.socket]:
        """Return sockets at 127.0.0.1:*port* of the node, if that is not this machine's own loopback."""
        del node, port
        return []

    def pod_sockets(self, port: int) -> list[socket.socket]:
        """Return listening sockets at `pod_facing_address`:*port*, if that is not this machine's own."""
        del port
        return []

    def name_server_sockets(self, port: int) -> list[socket.socket]:
        """Return UDP sockets at `pod_facing_address`:*port*, at which pods request addresses of names."""
        del port
        return []

    def sockets_in_pod(self, uid: str, port: int) -> list[socket.socket]:
        """Return sockets at 127.0.0.1:*port* of the pod, if that is not this machine's own loopback."""
        del uid, port
        return []

    def call_in_pod(self, uid: str, function: Callable[[], T]) -> T:
        """Call *function* with the sockets of the pod of this uid."""
        del uid
        return function()

    def call_on_node(self, node: str, function: Callable[[], T]) -> T:
        """Call *function* with the sockets of the node. Block while it runs."""
        del node
        return function()
