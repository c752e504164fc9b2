"""Nodes without NMI and why its DaemonSet runs no pod there, and pods that NMI leaves to IMDS. Pure.

NMI's pods on other nodes have the nodeSelector and the tolerations of the DaemonSet, so no permission to read
DaemonSets is necessary. The DaemonSet controller replaces the affinity of its pods by their node.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nmi.identity.exemptions import Exemptions
from nmi.settings import NmiSettings
from podidctl.evaluation.pod import PodCase, exemptions_of
from podidctl.facts.kinds import Daemon, PlacedNode, Taint, Toleration
from podidctl.facts.model import ReadFailure
from podidctl.facts.settings import likely_nmi
from podidctl.report.documents import Outcome
from podidctl.report.text import grouped
from podidentity.resources import AzurePodIdentityException, Pod

OF_KUBERNETES: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Prefixes of the taints that Kubernetes sets for a condition of the node, and removes."""
PREVENTING: Final = frozenset({"NoSchedule", "NoExecute"})
"""Effects of taints that keep pods from a node."""
NMI_ON_OTHER_NODES = "this node has no NMI pod, but other nodes have one"
NO_NMI_FOUND = "no pod in the cluster has NMI's labels (app.kubernetes.io/component=nmi, component=nmi)"


@dataclass(frozen=True, slots=True)
class MissingNmi:
    """The cause why a node has no NMI."""

    reason: str
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
    # First, because can_run_nmi is also False here, but no pod of a virtual node reaches IMDS.
    if node.is_virtual:
        return VIRTUAL
    if not node.can_run_nmi:
        return WINDOWS
    name = node.metadata.name
    # A pod that waits for the node proves that a DaemonSet admits it, so only the scheduler knows the cause.
    waiting = next((daemon for daemon in nmi if not daemon.spec.node_name and daemon.intended_node == name), None)
    if waiting is not None:
        then = f"make room for it: kubectl describe pod -n {waiting.metadata.namespace} {waiting.metadata.name}"
        return MissingNmi(f"NMI's pod {waiting.name} is not scheduled to it: {waiting.unscheduled_reason}", then)
    sets = {(daemon.metadata.namespace, daemon.daemon_set): daemon for daemon in nmi if daemon.daemon_set}
    obstacles = [(daemon, list(_obstacles(node, daemon))) for daemon in sets.values()]
    # There can be a DaemonSet for each node pool, and the node needs only one that admits it.
    for daemon, reasons in obstacles:
        if not reasons:
            return _admitted(node, daemon)
    return obstacles[0][1][0] if obstacles else _unknown(node)


def _obstacles(node: PlacedNode, nmi: Daemon) -> Iterator[MissingNmi]:
    """Yield the reasons why the scheduler does not admit a pod like *nmi* to *node*."""
    name = node.metadata.name
    for key, value in sorted((nmi.spec.node_selector or {}).items()):
        labels = node.metadata.labels or {}
        if labels.get(key) != value:
            has = f"its label is {key}={labels[key]}" if key in labels else "it has no such label"
            reason = f"the nodeSelector of NMI's DaemonSet {nmi.daemon_set} requires {key}={value}, and {has}"
            then = (
                f"change the DaemonSet's nodeSelector (nmi.nodeSelector in the chart's values), or label the node: "
                f"kubectl label node {name} {key}={value}"
            )
            yield MissingNmi(reason, then)
    for taint in node.spec.taints or ():
        if taint.effect in PREVENTING and not any(
            _tolerates(toleration, taint) for toleration in nmi.spec.tolerations or ()
        ):
            reason = f"NMI's DaemonSet {nmi.daemon_set} does not tolerate its taint {taint}"
            yield MissingNmi(reason, _toleration(taint, name))


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
    reason = f"nodeSelector and tolerations of NMI's DaemonSet {nmi.daemon_set} admit it{cordoned}"
    then = (
        "see the DaemonSet's affinity and events: kubectl describe daemonset "
        f"-n {nmi.metadata.namespace} {nmi.daemon_set}"
    )
    return MissingNmi(reason, then)


def _unknown(node: PlacedNode) -> MissingNmi:
    then = f"see the DaemonSet's nodeSelector, tolerations and events, and kubectl describe node {node.metadata.name}"
    return MissingNmi("no DaemonSet of NMI was found", then)


def unavailable_reason(case: PodCase, would: Outcome) -> str:
    """Return why no NMI on the pod's node returns the predicted outcome *would*; empty if one does or this is
    unknown.
    """
    if case.unseen:
        return ""
    missing = absent_nmi(case)
    if missing is not None:
        # IMDS responds to an exempt pod with and without NMI.
        return "" if would is Outcome.EXEMPT and missing.reaches_imds else f"{missing.reason}, so {missing.effect}"
    if (daemon := likely_nmi(case.nmi)) is not None:
        return "" if daemon.ready else f"NMI's pod {daemon.name} on this node is not ready ({daemon.not_ready_reason})"
    # A failed read proves no absence, and IMDS responds to an exempt pod without NMI too.
    if isinstance(case.facts.nmi, ReadFailure) or would is Outcome.EXEMPT:
        return ""
    return "" if case.configuration.is_given else NO_NMI_FOUND


def absent_nmi(case: PodCase) -> MissingNmi | None:
    """Return why the pod's node has no NMI although other nodes have one, or why it can have none; None if it has one
    or this is unknown.
    """
    if (missing := unsupported_node(case)) is not None:
        return missing
    if case.nmi or not case.nmi_elsewhere:
        return None
    if isinstance(case.node, PlacedNode):
        return missing_nmi(case.node, case.nmi_elsewhere)
    return MissingNmi(NMI_ON_OTHER_NODES, "see the DaemonSet's nodeSelector, tolerations and events")


def unsupported_node(case: PodCase) -> MissingNmi | None:
    """Return why no NMI can serve the node that the pod runs on; None if one can or does."""
    node = case.node
    if case.pod.finished or not isinstance(node, PlacedNode) or node.can_run_nmi:
        return None
    return None if any(daemon.ready for daemon in case.nmi) else missing_nmi(node, ())


def exemption_reasons(
    nmis: Sequence[NmiSettings], exceptions: Iterable[AzurePodIdentityException]
) -> Callable[[Pod], str]:
    """Return a function that returns why a pod is exempt (`MIC`, `exception namespace/name`), or an empty string.

    A node whose NMI flags are not known uses the flags of the first known NMI, or else the defaults.
    """
    by_node = {settings.node_name: exemptions_of(settings) for settings in nmis}
    usual = next(iter(by_node.values()), Exemptions())
    by_namespace = grouped((exception.metadata.namespace, exception) for exception in exceptions)

    def exemption_reason(pod: Pod) -> str:
        rules = by_node.get(pod.spec.node_name, usual)
        return rules.reason_given(pod, by_namespace.get(pod.metadata.namespace, ()))

    return exemption_reason
