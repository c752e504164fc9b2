"""Whether an NMI is on the pod's node that could answer it at all. Pure."""

from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.decision import Outcome, unseen_reason
from podidctl.diagnosis.input import DiagnosisInput, NmiPods, ReadFailure

NMI_ON_OTHER_NODES = "no pod of NMI is on this node, though there is on others"
NO_NMI_FOUND = "no pod anywhere has NMI's labels (app.kubernetes.io/component=nmi, component=nmi)"


def unavailable_reason(data: DiagnosisInput, would: Outcome) -> str:
    """Why nobody on the pod's node says what NMI *would*; empty where somebody does, or that is not known."""
    nmi = data.nmi
    if isinstance(nmi, ReadFailure) or unseen_reason(data):
        return ""
    if would is Outcome.EXEMPT and not nmi.here:
        return ""  # IMDS answers it either way
    if nmi.here:
        daemon = likely_nmi(nmi)
        return "" if daemon.ready else f"NMI's pod {daemon.name} on this node is not ready ({daemon.not_ready_reason})"
    if nmi.elsewhere:
        return NMI_ON_OTHER_NODES
    return "" if data.configuration.is_given else NO_NMI_FOUND


def likely_nmi(nmi: NmiPods) -> Daemon:
    """Of several pods with NMI's label on a node, the one that is NMI."""
    return max(nmi.here, key=lambda each: (each.looks_like_nmi, each.ready))
