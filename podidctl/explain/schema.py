"""Schema of an explanation, which is also the document of the machine-readable output. Pure."""

from enum import StrEnum

import msgspec

from podidctl.diagnosis.decision import Outcome
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidctl.report_parts import Statement
from podidentity.report import ReportModel, plain


class LinkState(StrEnum):
    """State of a link."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"


class Link(Statement, frozen=True):
    """One link between a pod and its token."""

    link: str
    """Name of the link, from a closed set."""
    about: str
    """The object's namespace and name, or another identification."""
    state: LinkState


def make_link(link: str, about: str, state: LinkState, says: str, then: str = "") -> Link:
    """Return a link. The texts are untrusted."""
    return Link(link=link, about=plain(about), state=state, says=plain(says), next=plain(then))


class EventReport(ReportModel, frozen=True):
    """An Event about the pod."""

    at: str
    by: str
    type: str
    reason: str
    message: str
    count: int


class Answer(ReportModel, frozen=True):
    """Result of a request that names no identity, except what only Azure knows."""

    outcome: Outcome
    says: str
    identity: str = ""
    """Namespace and name of the AzureIdentity that the pod gets or would get."""
    status: int | None = None
    """HTTP status of the refusal: the predicted one, or the one in NMI's log."""


class Explanation(ReportModel, frozen=True):
    """Explanation of one pod. Each link depends on the ones before it."""

    pod: str
    answer: Answer
    next: str
    """The next action for the first broken link; empty if no link is broken."""
    links: list[Link]
    events: list[EventReport]
    """Latest first."""
    rules: str
    """Origin of the NMI settings that were used."""
    events_unread: str = ""
    """Why the Events could not be read."""
    decided: list[LoggedDecision] = msgspec.field(default_factory=list)
    """Decisions about the pod in NMI's log, latest first."""
    decided_unread: str = ""
    """Why NMI's log could not be read."""
    manifest: str = ""
    """YAML for `kubectl apply -f -` with the permissions that are missing, or that could not be checked."""

    @property
    def broken(self) -> bool:
        return any(each.state is LinkState.BROKEN for each in self.links)
