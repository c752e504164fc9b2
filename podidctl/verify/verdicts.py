"""The verdict on each node, from the canary's responses and from NMI's logs, and the document of all verdicts. Pure.

An answer alone proves nothing: any server can imitate NMI. The proof is a line in the log of NMI's pod on this node,
with the request id that only the canary knows and with the canary's own address as the peer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from podidctl.report.documents import Statement
from podidctl.report.finding import Level
from podidctl.report.text import listed
from podidctl.verify import canary
from podidctl.verify.canary_outcome import CanaryResponse, CanaryResponses, NotRun
from podidctl.verify.pod import ClusterNode
from podidentity.report import ReportModel, counted, plain

PAGE: Final = "docs/data-planes.md"


class Answered(StrEnum):
    """The sender of the responses to a pod on the node."""

    NMI = "nmi"
    """NMI of this node, by its own log."""
    NMI_REFUSED = "nmi refused"
    """NMI of this node, which refuses the connection itself."""
    OTHER_ADDRESS = "nmi, other address"
    """NMI of this node, which saw another source address than the pod's."""
    OTHER_NODE = "nmi of another node"
    UNPROVEN = "unproven"
    """A server that answers like NMI, without a proof in NMI's log."""
    IMDS = "imds"
    OTHER = "other server"
    NOTHING = "nothing"
    UNKNOWN = "unknown"
    """No canary ran."""


class NodeVerdict(Statement, frozen=True):
    """The result for one node."""

    node: str
    level: Level
    answered_by: Answered
    nmi: str = ""
    """Namespace and name of the NMI pod that answered."""


class Verification(ReportModel, frozen=True):
    """The document."""

    namespace: str
    """Namespace of the canary pods."""
    nodes: list[NodeVerdict]
    not_deleted: list[str] = msgspec.field(default_factory=list)
    """Canary pods that could not be deleted. The kubelet stops them; the next `verify` deletes them."""


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


def without_canary(node: ClusterNode, outcome: NotRun) -> NodeVerdict:
    """Return the verdict on a node whose canary has no result."""
    return verdict(node.name, Level.UNKNOWN, Answered.UNKNOWN, outcome.reason, outcome.then)


def judge(node: ClusterNode, outcome: CanaryResponses, evidence: Evidence, nmis: Sequence[str]) -> NodeVerdict:
    """Return the verdict. *nmis*: namespace and name of NMI's pods on the node."""
    who = canary.worst([{"who": response.who} for response in outcome])
    share = f"{sum(response.who == who for response in outcome)} of {counted(len(outcome), 'request')}"
    # No proof is needed: one request that reaches IMDS shows that the redirect has a gap.
    if who == canary.IMDS:
        message = f"IMDS answered {share}: pods on this node get the node's own identities"
        return verdict(node.name, Level.PROBLEM, Answered.IMDS, message, _no_redirect(node, nmis))
    if all(response.who == canary.NOTHING for response in outcome):
        message = f"no server answered: {outcome[-1].text or 'no reason'}"
        return verdict(node.name, Level.PROBLEM, Answered.NOTHING, message, _without_response(nmis))
    return _proven(node, outcome, evidence) or _unproven(node, outcome, evidence, share)


def _proven(node: ClusterNode, outcome: CanaryResponses, evidence: Evidence) -> NodeVerdict | None:
    """Return the verdict that a line in a log proves, or None."""
    sources = {response.source for response in outcome if response.source}
    here = [sighting for sighting in evidence.sightings if sighting.node == node.name]
    own = next((sighting for sighting in here if sighting.peer in sources), None)
    if own is not None:
        return _from_nmi(node, outcome, own)
    if here:
        message = (
            f"NMI {here[0].nmi} received the request from {here[0].peer} instead of the pod's address "
            f"{listed(sources)}: it cannot attribute requests to pods"
        )
        then = f"find the program that rewrites source addresses on this node (masquerading), see {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.OTHER_ADDRESS, message, then, nmi=here[0].nmi)
    if evidence.sightings:
        remote = evidence.sightings[0]
        message = f"NMI {remote.nmi} of node {remote.node} answered, which does not serve the pods of this node"
        then = f"redirect pods to the NMI of their own node, see {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.OTHER_NODE, message, then, nmi=remote.nmi)
    return None


def _from_nmi(node: ClusterNode, outcome: CanaryResponses, own: Sighting) -> NodeVerdict:
    refused = next((response for response in outcome if response.who == canary.OTHER), None)
    if refused is not None:
        message = f"NMI {own.nmi} refuses pods of this node: {_description(refused)}"
        then = f"see NMI's log for the reason, and {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.NMI_REFUSED, message, then, nmi=own.nmi)
    missing = [response for response in outcome if response.who == canary.NOTHING]
    if missing:
        message = f"NMI of this node answered, but {len(missing)} of {counted(len(outcome), 'request')} got no answer"
        then = f"the last one: {missing[-1].text}; repeat this when NMI has been Ready for a minute"
        return verdict(node.name, Level.WARNING, Answered.NMI, message, then, nmi=own.nmi)
    return verdict(node.name, Level.OK, Answered.NMI, "NMI of this node answered", nmi=own.nmi)


def _unproven(node: ClusterNode, outcome: CanaryResponses, evidence: Evidence, share: str) -> NodeVerdict:
    foreign = next((response for response in outcome if response.who == canary.OTHER), None)
    if foreign is not None:
        message = f"a server that is neither NMI nor IMDS answered {share}: {_description(foreign)}"
        then = f"find the program that answers at the metadata address on this node, see {PAGE}"
        return verdict(node.name, Level.PROBLEM, Answered.OTHER, message, then)
    if evidence.unread:
        message = f"a server answered like NMI, but NMI's log could not be read: {evidence.unread[0]}"
        then = "grant get on pods/log in NMI's namespace, and repeat this"
    else:
        message = "a server answered like NMI, but no NMI has the request in its log"
        then = "repeat this: NMI limits its log lines; if it remains, another program on this node imitates NMI"
    return verdict(node.name, Level.UNKNOWN, Answered.UNPROVEN, message, then)


def _description(response: CanaryResponse) -> str:
    return " ".join(
        filter(None, (f"status {response.status}" if response.status else "", response.server, response.text))
    )


def _no_redirect(node: ClusterNode, nmis: Sequence[str]) -> str:
    if not nmis:
        return "no NMI runs on this node: see the DaemonSet's nodeSelector, affinity and tolerations"
    if node.has_ebpf_host_routing:
        return (
            f"this node has eBPF host routing, which bypasses netfilter: set bpf.hostLegacyRouting=true in Cilium, or "
            f"nmi.redirect.backend to cilium with its limits, see {PAGE}"
        )
    return f"see /readyz of NMI {nmis[0]}, podidctl doctor --node={node.name} on the node, and {PAGE}"


def _without_response(nmis: Sequence[str]) -> str:
    if not nmis:
        return "no NMI runs on this node, and a rule or policy blocks the metadata address: see the DaemonSet"
    return f"check that NMI {nmis[0]} is Ready, the network policies of the canary's namespace, and {PAGE}"


def verdict(
    node: str, level: Level, answered_by: Answered, message: str, then: str = "", *, nmi: str = ""
) -> NodeVerdict:
    """Return a verdict. The texts are untrusted."""
    return NodeVerdict(
        node=node, level=level, answered_by=answered_by, says=plain(message), next=plain(then), nmi=plain(nmi)
    )
