"""State of a cluster before the installation, and the data plane that follows from it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Address, ip_network
from typing import Final

import msgspec

from podidctl.facts.kinds import PlacedNode
from podidctl.facts.model import Facts, ReadFailure
from podidctl.facts.workloads import DAEMON_SETS, controller
from podidctl.report.finding import Finding
from podidentity.azure.resource_ids import Host, parse_provider_id
from podidentity.resources import Kind, Resource, Wire

SYSTEM: Final = "kube-system"
CILIUM_GROUP: Final = "cilium.io"
REDIRECT_POLICIES: Final = "ciliumlocalredirectpolicies"
METADATA_ADDRESS: Final = IPv4Address("169.254.169.254")
NMI_PORTS: Final = (2579, 8085, 9090)
"""Ports on the network of each node in the chart's default values."""


class Path(StrEnum):
    """Path of pods' packets through a node."""

    NETFILTER = "netfilter"
    BYPASSES = "bypasses"
    """Only Cilium itself can redirect them."""
    DEPENDS = "depends"
    """It depends on Cilium's version."""


class Port(Wire, frozen=True):
    container_port: int = 0
    host_port: int = 0
    protocol: str = "TCP"


class PortContainer(Wire, frozen=True):
    ports: Sequence[Port] | None = None


class PortSpec(Wire, frozen=True):
    node_name: str = ""
    host_network: bool = False
    containers: Sequence[PortContainer] = msgspec.field(default_factory=list)
    init_containers: Sequence[PortContainer] | None = None


class PortPod(Resource, frozen=True):
    """A pod with the ports that it declares on the network of its node."""

    spec: PortSpec = PortSpec()

    @property
    def node_ports(self) -> set[int]:
        """The declared TCP ports on the network of the node."""
        containers = (*self.spec.containers, *(self.spec.init_containers or ()))
        ports = (port for container in containers for port in container.ports or () if port.protocol == "TCP")
        return {port.host_port or (port.container_port if self.spec.host_network else 0) for port in ports} - {0}

    @property
    def system_daemon_set(self) -> str:
        """The DaemonSet in kube-system that runs the pod; empty if none does."""
        owner = controller(self) if self.metadata.namespace == SYSTEM else None
        return owner.name if owner is not None and owner.kind == DAEMON_SETS.name else ""


class ConfigMap(Resource, frozen=True):
    data: dict[str, str] | None = None


PORT_PODS: Final = Kind("Pod", "pods", PortPod)
CONFIG_MAPS: Final = Kind("ConfigMap", "configmaps", ConfigMap)


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of a dry run that creates a pod with the security settings of NMI's."""

    accepted: bool
    reason: str = ""
    """Why the API server refuses the pod. Untrusted."""
    then: str = ""


@dataclass(frozen=True)
class ClusterState:
    """What the command reads, each part or the reason why it could not be read."""

    namespace: str
    """The namespace of the installation."""
    repository: str
    """The value `image.repository`; empty if it is not known yet."""
    facts: Facts
    """With the API server's version and clock, and the pods that have NMI's label."""
    nodes: Sequence[PlacedNode] | ReadFailure = ()
    groups: frozenset[str] | ReadFailure = frozenset()
    """Names of the API groups."""
    redirect_policies: bool | ReadFailure = False
    """Whether Cilium's CiliumLocalRedirectPolicy is served."""
    cilium: Mapping[str, str] | ReadFailure | None = None
    """Cilium's configuration; None without Cilium or without its ConfigMap."""
    pods: Sequence[PortPod] | ReadFailure = ()
    """All pods that have not ended."""
    trial: Trial | ReadFailure = Trial(accepted=True)
    roles: Sequence[Finding] | None = None
    """The findings about the roles of MIC's principal; None if the command does not read Azure."""

    @cached_property
    def linux(self) -> Sequence[PlacedNode]:
        """The nodes that can run NMI; none if they could not be read."""
        return [] if isinstance(self.nodes, ReadFailure) else [node for node in self.nodes if node.can_run_nmi]

    @cached_property
    def hosts(self) -> Sequence[Host]:
        """The VMs and scale sets of these nodes, each once."""
        hosts = (parse_provider_id(node.spec.provider_id) for node in self.linux)
        return list({host.key: host for host in hosts if host is not None}.values())

    @property
    def has_cilium(self) -> bool:
        return not isinstance(self.groups, ReadFailure) and CILIUM_GROUP in self.groups

    @property
    def path(self) -> Path:
        """The path of pods' packets: by AKS's label of a node, else by Cilium's configuration.

        Cilium's agent uses eBPF host routing if it replaces kube-proxy and masquerades by eBPF or not at all, unless
        legacy host routing or IPsec is on. With endpoint routes or WireGuard this depends on its version.
        """
        if any(node.has_ebpf_host_routing for node in self.linux):
            return Path.BYPASSES
        if not self.has_cilium or not isinstance(self.cilium, Mapping):
            return Path.NETFILTER
        masquerades = self._has("enable-ipv4-masquerade", default="true") and not self._has("enable-bpf-masquerade")
        replacement = self.cilium.get("kube-proxy-replacement", "false").lower()
        if (
            replacement in {"false", "disabled"}
            or masquerades
            or self._has("enable-host-legacy-routing")
            or self._has("enable-ipsec")
        ):
            return Path.NETFILTER
        depends = self._has("enable-endpoint-routes") or self._has("enable-wireguard")
        return Path.DEPENDS if depends or replacement not in {"true", "strict"} else Path.BYPASSES

    @property
    def redirects(self) -> bool:
        """Whether Cilium's configuration permits a redirect of the metadata address. Clusters of AKS may have other
        keys, so this is True without a ConfigMap.
        """
        if not isinstance(self.cilium, Mapping):
            return True
        listed = self.cilium.get("lrp-address-matcher-cidrs", "").replace(",", " ").split()
        return self._has("enable-local-redirect-policy") and (not listed or any(map(_has_metadata_address, listed)))

    def _has(self, key: str, *, default: str = "false") -> bool:
        return isinstance(self.cilium, Mapping) and self.cilium.get(key, default).lower() == "true"


def _has_metadata_address(cidr: str) -> bool:
    try:
        return METADATA_ADDRESS in ip_network(cidr, strict=False)
    except ValueError:
        return False
