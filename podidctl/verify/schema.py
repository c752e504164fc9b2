"""The document that `podidctl verify -o json` prints: one verdict for each node. Pure."""

from enum import StrEnum

import msgspec

from podidctl.report.documents import Statement
from podidctl.report.finding import Level
from podidentity.report import ReportModel, plain


class Answered(StrEnum):
    """The sender of the answers to a pod on the node."""

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

    @property
    def anything(self) -> bool:
        """Whether there is a problem or a warning."""
        return any(each.level in {Level.PROBLEM, Level.WARNING} for each in self.nodes)

    @property
    def unknown(self) -> bool:
        """Whether the result for a node is not known."""
        return any(each.level is Level.UNKNOWN for each in self.nodes)


def verdict(node: str, level: Level, answered_by: Answered, says: str, then: str = "", *, nmi: str = "") -> NodeVerdict:
    """Return a verdict. The texts are untrusted."""
    return NodeVerdict(
        node=node, level=level, answered_by=answered_by, says=plain(says), next=plain(then), nmi=plain(nmi)
    )
