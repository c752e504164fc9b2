"""The sandbox's network like that of a real node: network namespaces for nodes and pods, veth pairs, and a fabric.

                 fabric: 169.254.169.254 (IMDS), 198.18.0.1 (ARM, AAD and DNS as pods reach them)
                 |  10.199.<node>.0/30           |
              node 0 (forwards, nat)          node 1
              |        10.200.<node>.0/24
            pod   pod   pod

Pods route through their node, so the node's nat rule is between them and IMDS, as on Azure. Nothing is connected to the
host's network.
"""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from typing_extensions import override

from podidentity_sandbox.namespaces import NamespaceError, Namespaces, sweep
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext, Network
from podidentity_sandbox.serving import bound

T = TypeVar("T")

FABRIC = "fabric"
NODES_MAX = 200
PODS_MAX = 240


class Fabric(Network):
    """The network of real namespaces. Needs root; `namespaces.trial` shows whether it is possible."""

    redirects = True
    pod_facing_address = "198.18.0.1"  # of the range for benchmarks (RFC 2544): no real route ever leads there

    def __init__(self, instance: str) -> None:
        super().__init__()
        self.namespaces = Namespaces(instance)
        self._nodes: dict[str, int] = {}
        self._pods: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    @override
    def start(self) -> None:
        """Clean up after killed sandboxes, then make the fabric."""
        sweep()
        self.namespaces.create(FABRIC)
        self.namespaces.set_sysctl(FABRIC, {"net/ipv4/ip_forward": "1"})
        self.namespaces.inside(
            FABRIC,
            [f"address add {address}/32 dev lo" for address in (METADATA_ADDRESS, self.pod_facing_address)],
        )

    @override
    def stop(self) -> None:
        """Remove every namespace, and with them all cables, rules and sockets' addresses."""
        self.namespaces.delete_all()
        self._nodes.clear()
        self._pods.clear()

    @override
    def add_node(self, name: str) -> ExecutionContext:
        """Make a node, cabled to the fabric. It forwards, and lets nat send its pods' packets to its own 127.0.0.1."""
        number = len(self._nodes)
        if number >= NODES_MAX:
            raise ValueError(f"a sandbox has at most {NODES_MAX} nodes")
        self._nodes[name] = number
        inner, outer = f"10.199.{number}.2", f"10.199.{number}.1"
        self.namespaces.create(name)
        self.namespaces.link(name, "uplink", FABRIC, f"node{number}")
        self.namespaces.inside(
            name,
            [
                f"address add {inner}/30 dev uplink",
                f"address add 10.200.{number}.1/32 dev lo",
                f"route add default via {outer}",
            ],
        )
        self.namespaces.inside(
            FABRIC, [f"address add {outer}/30 dev node{number}", f"route add 10.200.{number}.0/24 via {inner}"]
        )
        # route_localnet is what kube-proxy sets on real nodes: without it the nat rule's target drops the packets.
        self.namespaces.set_sysctl(name, {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/route_localnet": "1"})
        return ExecutionContext(inner, tuple(self.namespaces.command(name, ())))

    @override
    def add_pod(self, node: str, uid: str) -> ExecutionContext:
        """Make the pod's namespace, cabled to its node, everything routed by way of it."""
        with self._lock:
            number = self._pods.get((node, uid))
            exists = number is not None
            if number is None:
                taken = {used for (its_node, _), used in self._pods.items() if its_node == node}
                number = next(free for free in range(2, PODS_MAX) if free not in taken)
                self._pods[node, uid] = number
        name, subnet = f"pod-{uid}", f"10.200.{self._nodes[node]}"
        address, gateway = f"{subnet}.{number}", f"{subnet}.1"
        if not exists:
            self.namespaces.create(name)
            self.namespaces.set_name_server(name, self.pod_facing_address)
            self.namespaces.link(name, "eth0", node, f"pod{number}")
            self.namespaces.inside(
                name,
                [
                    f"address add {address}/32 dev eth0",
                    f"route add {gateway} dev eth0",
                    f"route add default via {gateway}",
                ],
            )
            self.namespaces.inside(node, [f"route add {address}/32 dev pod{number}"])
        return ExecutionContext(address, tuple(self.namespaces.command(name, ())))

    @override
    def remove_pod(self, node: str, uid: str) -> None:
        """Remove the pod's namespace; the kernel removes its cable and route too, and the address becomes free."""
        with self._lock:
            number = self._pods.pop((node, uid), None)
        if number is not None:
            # Explicitly: the kernel removes a namespace with a delay, and the next pod needs the name.
            with contextlib.suppress(NamespaceError):
                self.namespaces.inside(node, [f"link delete pod{number}"])
        self.namespaces.delete(f"pod-{uid}")

    @override
    def metadata_socket(self, node: str) -> socket.socket | None:
        """Return one socket in the fabric for all nodes, which differ by their addresses."""
        if self._nodes[node] > 0:
            return None
        return self.namespaces.listening(FABRIC, METADATA_ADDRESS, 80)

    @override
    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        """Return the addresses of the node and its pods. Requests that no nat rule redirects reach IMDS as the VM's."""
        number = self._nodes[node]
        return (
            ipaddress.IPv4Network(f"10.199.{number}.2/32"),
            ipaddress.IPv4Network(f"10.200.{number}.0/24"),
        )

    @override
    def node_sockets(self, node: str, port: int) -> list[socket.socket]:
        """Return a socket inside the node, so that one kubeconfig is valid there and on the host."""
        return [self.namespaces.listening(node, "127.0.0.1", port)]

    @override
    def pod_sockets(self, port: int) -> list[socket.socket]:
        """Return a socket in the fabric, which every pod reaches by way of its node."""
        return [self.namespaces.listening(FABRIC, self.pod_facing_address, port)]

    @override
    def name_server_sockets(self, port: int) -> list[socket.socket]:
        """Return a socket in the fabric, which is the name server of every pod."""
        address = (self.pod_facing_address, port)
        return [self.namespaces.call(FABRIC, lambda: bound(address, kind=socket.SOCK_DGRAM))]

    @override
    def call_on_node(self, node: str, function: Callable[[], T]) -> T:
        return self.namespaces.call(node, function)

    @override
    def sockets_in_pod(self, uid: str, port: int) -> list[socket.socket]:
        """Return a socket on the pod's own loopback."""
        return [self.namespaces.listening(f"pod-{uid}", "127.0.0.1", port)]

    @override
    def call_in_pod(self, uid: str, function: Callable[[], T]) -> T:
        return self.namespaces.call(f"pod-{uid}", function)
