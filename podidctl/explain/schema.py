"""The explanation as values, which are the documents of the machine-readable output, too. Pure."""

from enum import StrEnum

import msgspec

from podidctl.diagnosis.decision import Outcome
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidctl.printing import plain


class LinkState(StrEnum):
    """How a link, or a check, is."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"


class Shown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What every part has in common: the names of its fields in JSON."""


class Link(Shown, frozen=True):
    """One link between a pod and its token."""

    link: str
    """Which: a word or two of a closed set."""
    about: str
    """The object: its namespace and name, or what else it is called."""
    state: LinkState
    says: str
    next: str = ""
    """What to do; for a broken link never empty."""


def make_link(link: str, about: str, state: LinkState, says: str, then: str = "") -> Link:
    """A link of texts that anybody may have written."""
    return Link(link=link, about=plain(about), state=state, says=plain(says), next=plain(then))


class EventReport(Shown, frozen=True):
    """An Event about the pod."""

    at: str
    by: str
    type: str
    reason: str
    message: str
    count: int


class Answer(Shown, frozen=True):
    """What a request that names no identity comes to, up to what only Azure knows."""

    outcome: Outcome
    says: str
    identity: str = ""
    """Namespace and name of the AzureIdentity that the pod is given, or would be."""
    status: int | None = None
    """The HTTP status, where NMI refuses without asking Azure."""


class Explanation(Shown, frozen=True):
    """All of it. `links` are in the order in which one depends on the other."""

    pod: str
    answer: Answer
    next: str
    """What to do at the first broken link; empty where none is."""
    links: list[Link]
    events: list[EventReport]
    """The latest first."""
    rules: str
    """By whose flags this was decided."""
    events_unread: str = ""
    """Why the Events could not be read."""
    decided: list[LoggedDecision] = []
    """What NMI's log says of the pod, the latest first."""
    decided_unread: str = ""
    """Why NMI's log could not be read."""

    @property
    def broken(self) -> bool:
        return any(each.state is LinkState.BROKEN for each in self.links)
