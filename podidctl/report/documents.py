"""Documents of the machine-readable output of `explain`, `token` and `doctor`. Pure."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from podidctl.report.finding import Finding, Level
from podidentity.report import ReportModel, plain


class Statement(ReportModel, frozen=True, kw_only=True):
    """A result in words."""

    says: str
    next: str = ""
    """The next action; never empty for a fault."""


class Advice(ReportModel, frozen=True, kw_only=True):
    """A reason and an action for the operator."""

    why: str
    do: str


class NamespacedPart(ReportModel, frozen=True):
    """A part about one namespaced object."""

    namespace: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


class Outcome(StrEnum):
    """Result of a token request."""

    GRANTED = "granted"
    EXEMPT = "exempt"
    """NMI forwards the request to IMDS, for the node's own identities."""
    WAITS = "waits"
    """NMI holds the request and refuses it unless the state changes."""
    REFUSED = "refused"
    UNSEEN = "unseen"
    """NMI does not recognize any request as this pod's."""
    UNANSWERED = "unanswered"
    """NMI would respond, but no working NMI is on the pod's node."""


class LoggedDecision(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One decision with its repeats. Texts may come from the pod."""

    at: str
    """Time of the decision or of its last repeat, in UTC."""
    outcome: str
    identity: str = ""
    """Namespace and name of the AzureIdentity."""
    resource: str = ""
    """The requested audience."""
    status: int | None = None
    """HTTP status of a refusal."""
    error: str = ""
    """Reason of a refusal, with the next action."""
    unanswered: bool = False
    """Whether the client disconnected before the response. `outcome` and `error` are those at the end of its wait."""
    repeats: int = 0
    decided_at: str = ""
    """Time of the decision's own line, in UTC; empty if only a summary of its repeats was found."""


class RoleAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """A role of an identity on Azure."""

    role: str
    """The role's name, or its id if the name could not be read."""
    scope: str
    """Resource id of the resource, resource group, subscription or management group."""


class LinkState(StrEnum):
    """State of a link."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"


STATES: Final = {
    Level.OK: LinkState.OK,
    Level.WARNING: LinkState.OK,
    Level.PROBLEM: LinkState.BROKEN,
    Level.UNKNOWN: LinkState.UNKNOWN,
}
"""State of the link for each severity of a finding. A warning does not keep the pod from its token."""


class Link(Statement, frozen=True):
    """One link between a pod and its token."""

    link: str
    """Name of the link, from a closed set."""
    about: str
    """The object's namespace and name, or another identification; `none` if there is no object."""
    state: LinkState

    @property
    def text(self) -> str:
        """The result with the object."""
        return self.says if self.about == "none" else f"{self.about}: {self.says}"


def link_of(finding: Finding) -> Link:
    """Return the link of an explanation. The finding's texts are untrusted."""
    return Link(
        link=finding.check,
        about=plain(finding.about),
        state=STATES[finding.level],
        says=plain(finding.message),
        next=plain(finding.next),
    )


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
    summary: str
    """The first line: `broken: ` and the first broken link, else the outcome and the identity."""
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
    roles: list[RoleAssignment] = msgspec.field(default_factory=list)
    """With --roles: the first role assignments of the identity in its subscription."""

    @property
    def broken(self) -> bool:
        return any(link.state is LinkState.BROKEN for link in self.links)


class Cause(ReportModel, frozen=True):
    """A broken link that is the first one of each of these pods."""

    link: Link
    """That of one of the pods; about `none` if it is about each pod itself."""
    pods: list[str]
    """As `namespace/name`."""


class Served(ReportModel, frozen=True):
    """Pods without a broken link, with the same outcome and identity."""

    outcome: Outcome
    identity: str
    pods: list[str]


class PodsExplanation(ReportModel, frozen=True):
    """Explanations of several pods, and of the object that concerns them."""

    summary: str
    """The first line: `broken: ` and the first broken link of the object, else `counts`."""
    counts: str
    """`broken: 2 of 7 pods`, or the outcomes."""
    next: str
    """The next action for the first broken link of the object, or for the first cause; empty if there is none."""
    links: list[Link]
    """Links of the object; none if only pods are named."""
    causes: list[Cause]
    """Those of most pods first."""
    served: list[Served]
    pods: list[Explanation]
    """Each with its first links."""
    omitted: int = 0
    """Number of further pods, which are not explained."""

    @property
    def broken(self) -> bool:
        return bool(self.causes) or any(link.state is LinkState.BROKEN for link in self.links)


class Effect(ReportModel, frozen=True):
    """A fault, or a part that was not checked, because of another finding."""

    check: str
    says: str
    level: Level
    next: str = ""
    """The next action if it remains without the cause; empty for that of the cause."""


class CheckResult(Statement, frozen=True):
    """Result of one check with what follows from it."""

    check: str
    """Name of the check, from a closed set."""
    level: Level
    manifest: str = ""
    """YAML for `kubectl apply -f -` that corrects it; empty if no object does."""
    affects: list[Effect] = msgspec.field(default_factory=list)
    """What follows from it."""


class Report(ReportModel, frozen=True):
    """All findings, in the order of the checks."""

    findings: list[CheckResult]

    @property
    def levels(self) -> Iterator[Level]:
        """The levels of the findings and of what follows from them."""
        for finding in self.findings:
            yield from (finding.level, *(effect.level for effect in finding.affects))


def check_result(finding: Finding) -> CheckResult:
    """Return the line of the doctor's report. The finding's texts are untrusted, except for its manifest."""
    return CheckResult(
        check=finding.check,
        level=finding.level,
        says=plain(finding.message),
        next=plain(finding.next),
        manifest=finding.manifest,
        affects=[
            Effect(
                effect.check,
                plain(_effect(effect)),
                effect.level,
                # The action of the cause is in its own row.
                plain(effect.next) if effect.next != finding.next else "",
            )
            for effect in finding.effects
        ],
    )


def _effect(effect: Finding) -> str:
    """Return the text of an effect without the reason of a failed read, which the cause has."""
    return "not checked" if effect.message == effect.cause else effect.message.removesuffix(f": {effect.cause}")


class TokenPrediction(ReportModel, frozen=True):
    """NMI's predicted response."""

    pod: str
    outcome: Outcome
    audience: str
    rules: str
    """Origin of the NMI settings that were used."""
    identity: str = ""
    """Namespace and name of the AzureIdentity, also if its token is refused."""
    type: str = ""
    client_id: str = ""
    resource_id: str = ""
    asked: str = ""
    """The endpoint that NMI would ask for the token."""
    subject: str = ""
    """Subject of the pod's service account token, if the identity is federated."""
    exchange: str = ""
    """`direct` or `identityBindings`, if the identity is federated and NMI accepts its annotation."""
    held_seconds: float = 0.0
    """How long after the pod's first request NMI holds requests before it refuses them."""
    immediate_repeats: bool = False
    """Whether NMI refuses requests immediately after that time, until something changes for the pod."""
    status: int | None = None
    """HTTP status of a refusal; `error` and `description` are its body. Of a refusal in NMI's log only the status is
    known."""
    error: str = ""
    description: str = ""
    why: str = ""
    """The reason in NMI's log, for the operator."""
    note: str = ""
    """A fault that prevents the response, or a setting that is unknown here and may change it."""
    manifest: str = ""
    """YAML for `kubectl apply -f -` with the permission that is missing, or that could not be checked."""
