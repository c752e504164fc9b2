"""Nodes without NMI: why its DaemonSet runs no pod there. Pure.

NMI's pods on other nodes have the nodeSelector and the tolerations of the DaemonSet, so no permission to read
DaemonSets is necessary. The DaemonSet controller replaces the affinity of its pods by their node.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from nmi.node.host_routing import HostRouting, by_labels
from podidctl.diagnosis.daemons import Daemon, Toleration
from podidentity.resources import Kind, Node, NodeSpec, Wire

OS_LABEL: Final = "kubernetes.io/os"
VIRTUAL_LABEL: Final = ("type", "virtual-kubelet")
"""Label of a node that is not a machine, where DaemonSet pods cannot run."""
VIRTUAL_TAINT: Final = "virtual-kubelet.io/provider"
OF_KUBERNETES: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Prefixes of the taints that Kubernetes sets for a condition of the node, and removes."""
PREVENTING: Final = frozenset({"NoSchedule", "NoExecute"})
"""Effects of taints that keep pods from a node."""


class Taint(Wire, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""

    @override
    def __str__(self) -> str:
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"


class PlacedNodeSpec(NodeSpec, frozen=True):
    taints: list[Taint] | None = None
    unschedulable: bool = False


class PlacedNode(Node, frozen=True):
    """A node with the fields by which the scheduler admits NMI's pods."""

    spec: PlacedNodeSpec = PlacedNodeSpec()

    @property
    def is_windows(self) -> bool:
        return self.metadata.label(OS_LABEL) == "windows"

    @property
    def is_virtual(self) -> bool:
        """Whether this is no machine, as with Azure Container Instances."""
        name, value = VIRTUAL_LABEL
        return self.metadata.label(name) == value or any(each.key == VIRTUAL_TAINT for each in self.spec.taints or ())

    @property
    def has_ebpf_host_routing(self) -> bool:
        """Whether pods' packets bypass netfilter, by AKS's label."""
        return by_labels(self.metadata.labels or {}) is HostRouting.EBPF

    @property
    def can_run_nmi(self) -> bool:
        return self.metadata.label(OS_LABEL) in {"", "linux"} and not self.is_virtual


PLACED_NODES: Final = Kind("Node", "nodes", PlacedNode, namespaced=False)


@dataclass(frozen=True, slots=True)
class MissingNmi:
    """The cause why a node has no NMI."""

    why: str
    then: str
    """The next action."""
    reaches_imds: bool = True
    """Whether IMDS responds to the pods of the node."""

    @property
    def effect(self) -> str:
        if not self.reaches_imds:
            return "its pods get no token from NMI and have no identities of a VM"
        return "IMDS responds to its pods, with every identity that is attached to its VM or scale set"


WINDOWS: Final = MissingNmi(
    "the node runs Windows, where NMI does not run",
    "use workload identity for the pod, and remove its label aadpodidbinding, by which MIC attaches identities to the "
    "scale set; if its image is for Linux, set nodeSelector kubernetes.io/os: linux in the pod's template",
)
VIRTUAL: Final = MissingNmi(
    "the node is virtual (virtual-kubelet), where NMI does not run",
    "use workload identity for the pod, or let it run on a VM: remove the toleration of virtual-kubelet.io/provider "
    "and the nodeSelector of the virtual node from the pod's template",
    reaches_imds=False,
)


def missing_nmi(node: PlacedNode, nmi: Sequence[Daemon]) -> MissingNmi:
    """Return why *node* has no NMI. *nmi*: NMI's pods of the whole cluster."""
    if node.is_virtual:
        return VIRTUAL
    if not node.can_run_nmi:
        return WINDOWS
    name = node.metadata.name
    waiting = next((each for each in nmi if not each.spec.node_name and each.intended_node == name), None)
    if waiting is not None:
        then = f"make room for it: kubectl describe pod -n {waiting.metadata.namespace} {waiting.metadata.name}"
        return MissingNmi(f"NMI's pod {waiting.name} is not scheduled to it: {waiting.unscheduled_reason}", then)
    sets = {(each.metadata.namespace, each.daemon_set): each for each in nmi if each.daemon_set}
    obstacles = [(each, list(_obstacles(node, each))) for each in sets.values()]
    for each, found in obstacles:
        if not found:
            return _admitted(node, each)
    return obstacles[0][1][0] if obstacles else _unknown(node)


def _obstacles(node: PlacedNode, nmi: Daemon) -> Iterator[MissingNmi]:
    """Yield the reasons why the scheduler does not admit a pod like *nmi* to *node*."""
    name = node.metadata.name
    for key, value in sorted((nmi.spec.node_selector or {}).items()):
        labels = node.metadata.labels or {}
        if labels.get(key) != value:
            has = f"its label is {key}={labels[key]}" if key in labels else "it has no such label"
            why = f"the nodeSelector of NMI's DaemonSet {nmi.daemon_set} requires {key}={value}, and {has}"
            then = (
                f"change the DaemonSet's nodeSelector (nmi.nodeSelector in the chart's values), or label the node: "
                f"kubectl label node {name} {key}={value}"
            )
            yield MissingNmi(why, then)
    for taint in node.spec.taints or ():
        if taint.effect in PREVENTING and not any(_tolerates(each, taint) for each in nmi.spec.tolerations or ()):
            why = f"NMI's DaemonSet {nmi.daemon_set} does not tolerate its taint {taint}"
            yield MissingNmi(why, _toleration(taint, name))


def _toleration(taint: Taint, node: str) -> str:
    """Return the next action for a taint that NMI does not tolerate."""
    if taint.key.startswith(OF_KUBERNETES):
        return (
            f"correct the condition of the node that this taint reports: kubectl describe node {node}; or tolerate it "
            "in the DaemonSet (nmi.tolerations in the chart's values; its default tolerates all)"
        )
    return (
        f"add a toleration of {taint.key} to the DaemonSet (nmi.tolerations in the chart's values; its default "
        f"tolerates all), or remove the taint: kubectl taint node {node} {taint.key}:{taint.effect}-"
    )


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in {"", taint.effect} or toleration.key not in {"", taint.key}:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.operator in {"", "Equal"} and toleration.value == taint.value


def _admitted(node: PlacedNode, nmi: Daemon) -> MissingNmi:
    cordoned = "; that the node is cordoned does not matter for a DaemonSet" if node.spec.unschedulable else ""
    why = f"nodeSelector and tolerations of NMI's DaemonSet {nmi.daemon_set} admit it{cordoned}"
    then = (
        "see the DaemonSet's affinity and events: kubectl describe daemonset "
        f"-n {nmi.metadata.namespace} {nmi.daemon_set}"
    )
    return MissingNmi(why, then)


def _unknown(node: PlacedNode) -> MissingNmi:
    then = f"see the DaemonSet's nodeSelector, tolerations and events, and kubectl describe node {node.metadata.name}"
    return MissingNmi("no DaemonSet of NMI was found", then)
