"""The options of a test bed, and the addresses that follow from them.

Every bed creates its network namespaces, so that two beds on one machine use the same addresses without conflict.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final, Literal

OUTSIDE_ADDRESS: Final = "10.98.0.1"
"""The address of the API server, AAD and ARM, outside of the nodes."""
API_SERVICE: Final = "10.96.0.1"
POD_RANGE: Final = "10.244.0.0/16"
API_PORT: Final = 6443
AAD_PORT: Final = 8443
ARM_PORT: Final = 8444
PROXY_PORT: Final = 8445

Cni = Literal["bridge", "ptp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The kind of nodes of a test bed."""

    nodes: int = 1
    cni: Cni = "bridge"
    """`bridge`: pods of a node share a bridge. `ptp`: each pod has a separate link to the node."""
    proxy: Literal["iptables", "nftables"] = "iptables"
    cilium: Literal["", "ebpf", "legacy"] = ""
    """The host routing of Cilium's agent, which then replaces the CNI plugin and kube-proxy; empty: without Cilium."""
    legacy_iptables: bool = False
    """Whether the node's own `iptables` is the legacy one, which kube-proxy then uses."""
    pod_addresses: int = 250
    """The number of addresses for the pods of a node. With few of them, new pods soon get those of former ones."""
    scale_set: str = ""
    """The scale set whose instances the nodes are; empty: each node is a VM."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 9:
            raise ValueError(f"a test bed has 1 to 9 nodes, not {self.nodes}")
        if self.legacy_iptables and self.proxy == "nftables":
            raise ValueError("legacy iptables is an option of kube-proxy's mode iptables only")


class NodeAddresses:
    """The addresses of one node by its *number*, from 0: its own, the outside end of its cable, and its pods' range."""

    def __init__(self, number: int) -> None:
        self.node = f"10.97.{number}.10"
        self.gateway = f"10.97.{number}.1"
        self.pods = f"10.244.{number}.0/24"

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network, ...]:
        """The source addresses of the node's requests to IMDS: its own, and those of its pods."""
        return (ipaddress.IPv4Network(f"{self.node}/32"), ipaddress.IPv4Network(self.pods))


def is_pod(address: str) -> bool:
    """Return whether *address* is a pod's, and not a node's."""
    return ipaddress.ip_address(address) in ipaddress.ip_network(POD_RANGE)
