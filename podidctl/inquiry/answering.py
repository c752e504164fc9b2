"""Whether an NMI is on the pod's node that could answer it at all. Pure."""

from podidctl.inquiry.daemons import Daemon
from podidctl.inquiry.facts import Facts, NmiThere, Unread
from podidctl.inquiry.verdict import Outcome, unseen

ELSEWHERE = "no pod of NMI is on this node, though there is on others"
NOWHERE = "no pod anywhere has NMI's labels (app.kubernetes.io/component=nmi, component=nmi)"


def silent(facts: Facts, would: Outcome) -> str:
    """Why nobody on the pod's node says what NMI *would*; empty where somebody does, or that is not known."""
    nmi = facts.nmi
    if isinstance(nmi, Unread) or unseen(facts):
        return ""
    if would is Outcome.EXEMPT and not nmi.here:
        return ""  # IMDS answers it either way
    if nmi.here:
        daemon = likeliest(nmi)
        return "" if daemon.ready else f"NMI's pod {daemon.name} on this node is not ready ({daemon.trouble})"
    if nmi.elsewhere:
        return ELSEWHERE
    return "" if facts.rules.given else NOWHERE


def likeliest(nmi: NmiThere) -> Daemon:
    """Of several pods with NMI's label on a node, the one that is NMI."""
    return max(nmi.here, key=lambda each: (each.likely, each.ready))
