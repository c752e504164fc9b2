"""The verdict on one node, from the canary's answers and from NMI's logs. Pure.

An answer alone proves nothing: any server can imitate NMI. The proof is a line in the log of NMI's pod on this node,
with the request id that only the canary knows and with the canary's own address as the peer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from podidctl.report.finding import Level
from podidctl.report.text import listed
from podidctl.verify import canary
from podidctl.verify.objects import ClusterNode
from podidctl.verify.outcome import Answers, CanaryAnswer, NotRun
from podidctl.verify.schema import Answered, NodeVerdict, verdict
from podidentity.report import counted

PAGE: Final = "docs/data-planes.md"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A line in NMI's log about the canary's request."""

    node: str
    nmi: str
    """Namespace and name of NMI's pod."""
    peer: str
    """The address from which NMI received the request."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The result of the search in NMI's logs."""

    sightings: tuple[Sighting, ...] = ()
    unread: tuple[str, ...] = ()
    """Reasons why a log could not be read."""


def judge(node: ClusterNode, outcome: Answers | NotRun, evidence: Evidence, nmis: Sequence[str]) -> NodeVerdict:
    """Return the verdict. *nmis*: namespace and name of NMI's pods on the node."""
    if isinstance(outcome, NotRun):
        return verdict(node.name, Level.UNKNOWN, Answered.UNKNOWN, outcome.why, outcome.then)
    who = canary.worst([{"who": each.who} for each in outcome])
    share = f"{sum(each.who == who for each in outcome)} of {counted(len(outcome), 'request')}"
    if who == canary.IMDS:
        says = f"IMDS answered {share}: pods on this node get the node's own identities"
        return verdict(node.name, Level.PROBLEM, Answered.IMDS, says, _no_redirect(node, nmis))
    if all(each.who == canary.NOTHING for each in outcome):
        says = f"no server answered: {outcome[-1].text or 'no reason'}"
        return verdict(node.name, Level.PROBLEM, Answered.NOTHING, says, _no_answer(nmis))
    return _proven(node, outcome, evidence) or _unproven(node, outcome, evidence, share)


def _proven(node: ClusterNode, outcome: Answers, evidence: Evidence) -> NodeVerdict | None:
    """Return the verdict that a line in a log proves, or None."""
    sources = {each.source for each in outcome if each.source}
    here = [each for each in evidence.sightings if each.node == node.name]
    own = next((each for each in here if each.peer in sources), None)
    if own is not None:
        return _from_nmi(node, outcome, own)
    if here:
        says = (
            f"NMI {here[0].nmi} received the request from {here[0].peer} instead of the pod's address "
            f"{listed(sources)}: it cannot attribute requests to pods"
        )
        then = f"find the program that rewrites source addresses on this node (masquerading), see {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.OTHER_ADDRESS, says, then, nmi=here[0].nmi)
    if evidence.sightings:
        other = evidence.sightings[0]
        says = f"NMI {other.nmi} of node {other.node} answered, which does not serve the pods of this node"
        then = f"redirect pods to the NMI of their own node, see {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.OTHER_NODE, says, then, nmi=other.nmi)
    return None


def _from_nmi(node: ClusterNode, outcome: Answers, own: Sighting) -> NodeVerdict:
    refused = next((each for each in outcome if each.who == canary.OTHER), None)
    if refused is not None:
        says = f"NMI {own.nmi} refuses pods of this node: {_description(refused)}"
        then = f"see NMI's log for the reason, and {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.NMI_REFUSED, says, then, nmi=own.nmi)
    missing = [each for each in outcome if each.who == canary.NOTHING]
    if missing:
        says = f"NMI of this node answered, but {len(missing)} of {counted(len(outcome), 'request')} got no answer"
        then = f"the last one: {missing[-1].text}; repeat this when NMI has been Ready for a minute"
        return verdict(node.name, Level.WARNING, Answered.NMI, says, then, nmi=own.nmi)
    return verdict(node.name, Level.OK, Answered.NMI, "NMI of this node answered", nmi=own.nmi)


def _unproven(node: ClusterNode, outcome: Answers, evidence: Evidence, share: str) -> NodeVerdict:
    other = next((each for each in outcome if each.who == canary.OTHER), None)
    if other is not None:
        says = f"a server that is neither NMI nor IMDS answered {share}: {_description(other)}"
        then = f"find the program that answers at the metadata address on this node, see {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.OTHER, says, then)
    if evidence.unread:
        says = f"a server answered like NMI, but NMI's log could not be read: {evidence.unread[0]}"
        then = "grant get on pods/log in NMI's namespace, and repeat this"
    else:
        says = "a server answered like NMI, but no NMI has the request in its log"
        then = "repeat this: NMI limits its log lines; if it remains, another program on this node imitates NMI"
    return verdict(node.name, Level.UNKNOWN, Answered.UNPROVEN, says, then)


def _description(answer: CanaryAnswer) -> str:
    return " ".join(filter(None, (f"status {answer.status}" if answer.status else "", answer.server, answer.text)))


def _no_redirect(node: ClusterNode, nmis: Sequence[str]) -> str:
    if not nmis:
        return "no NMI runs on this node: see the DaemonSet's nodeSelector, affinity and tolerations"
    if node.has_ebpf_host_routing:
        return (
            f"this node has eBPF host routing, which bypasses netfilter: set bpf.hostLegacyRouting=true in Cilium, or "
            f"nmi.redirect.backend to cilium with its limits, see {PAGE}"
        )
    return f"see /readyz of NMI {nmis[0]}, podidctl doctor --node={node.name} on the node, and {PAGE}"


def _no_answer(nmis: Sequence[str]) -> str:
    if not nmis:
        return "no NMI runs on this node, and a rule or policy blocks the metadata address: see the DaemonSet"
    return f"check that NMI {nmis[0]} is Ready, the network policies of the canary's namespace, and {PAGE}"
