"""Check that the pod's node has an NMI that can respond. Pure."""

from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.decision import Outcome, unseen_reason
from podidctl.diagnosis.input import DiagnosisInput, NmiPods, ReadFailure

NMI_ON_OTHER_NODES = "this node has no NMI pod, but other nodes have one"
NO_NMI_FOUND = "no pod in the cluster has NMI's labels (app.kubernetes.io/component=nmi, component=nmi)"


def unavailable_reason(data: DiagnosisInput, would: Outcome) -> str:
    """Return why no NMI on the pod's node returns the predicted outcome *would*; empty if one does or this is
    unknown.
    """
    nmi = data.nmi
    if isinstance(nmi, ReadFailure) or unseen_reason(data):
        return ""
    if would is Outcome.EXEMPT and not nmi.here:
        return ""  # IMDS responds in both cases
    if nmi.here:
        daemon = likely_nmi(nmi)
        return "" if daemon.ready else f"NMI's pod {daemon.name} on this node is not ready ({daemon.not_ready_reason})"
    if nmi.elsewhere:
        return NMI_ON_OTHER_NODES
    return "" if data.configuration.is_given else NO_NMI_FOUND


def likely_nmi(nmi: NmiPods) -> Daemon:
    """Return the pod that most likely is NMI among several with its label on a node."""
    return max(nmi.here, key=lambda each: (each.looks_like_nmi, each.ready))
