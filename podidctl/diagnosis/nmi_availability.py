"""Check that the pod's node has an NMI that can respond. Pure."""

from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.decision import Outcome, unseen_reason
from podidctl.diagnosis.input import DiagnosisInput, NmiPods, ReadFailure
from podidctl.diagnosis.node_placement import MissingNmi, PlacedNode, missing_nmi

NMI_ON_OTHER_NODES = "this node has no NMI pod, but other nodes have one"
NO_NMI_FOUND = "no pod in the cluster has NMI's labels (app.kubernetes.io/component=nmi, component=nmi)"


def unavailable_reason(data: DiagnosisInput, would: Outcome) -> str:
    """Return why no NMI on the pod's node returns the predicted outcome *would*; empty if one does or this is
    unknown.
    """
    if unseen_reason(data):
        return ""
    missing = absent_nmi(data)
    if missing is not None:
        # IMDS responds to an exempt pod with and without NMI.
        return "" if would is Outcome.EXEMPT and missing.reaches_imds else f"{missing.why}, so {missing.effect}"
    nmi = data.nmi
    if isinstance(nmi, ReadFailure) or (would is Outcome.EXEMPT and not nmi.here):
        return ""
    if nmi.here:
        daemon = likely_nmi(nmi)
        return "" if daemon.ready else f"NMI's pod {daemon.name} on this node is not ready ({daemon.not_ready_reason})"
    return "" if data.configuration.is_given else NO_NMI_FOUND


def absent_nmi(data: DiagnosisInput) -> MissingNmi | None:
    """Return why the pod's node has no NMI although other nodes have one, or why it can have none; None if it has one
    or this is unknown.
    """
    node, nmi = data.node, data.nmi
    if (missing := unsupported_node(data)) is not None:
        return missing
    if isinstance(nmi, ReadFailure) or nmi.here or not nmi.others:
        return None
    if isinstance(node, PlacedNode):
        return missing_nmi(node, nmi.others)
    return MissingNmi(NMI_ON_OTHER_NODES, "see the DaemonSet's nodeSelector, tolerations and events")


def unsupported_node(data: DiagnosisInput) -> MissingNmi | None:
    """Return why no NMI can serve the node that the pod runs on; None if one can or does."""
    pod, node = data.pod, data.node
    if pod is None or pod.finished or not isinstance(node, PlacedNode) or node.can_run_nmi:
        return None
    here = () if isinstance(data.nmi, ReadFailure) else data.nmi.here
    return None if any(each.ready for each in here) else missing_nmi(node, ())


def likely_nmi(nmi: NmiPods) -> Daemon:
    """Return the pod that most likely is NMI among several with its label on a node."""
    return max(nmi.here, key=lambda each: (each.looks_like_nmi, each.ready))
