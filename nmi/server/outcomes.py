"""What becomes of a request: an answer, counted and logged. Each refusal passes through here, exactly once."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from _native.histogram import Series
from _native.index import Index, PodRecord
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.call import Call
from nmi.server.decisions import Decisions, Subject
from nmi.server.head import bad
from nmi.server.metrics import ServerMetrics, audience
from nmi.server.passthrough import Stream
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import Answer, refused
from nmi.server.target import Route


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, whose it is, and where its time is to be counted."""

    answer: Answer
    series: Series
    call: Call


@dataclass(frozen=True, slots=True)
class Pending:
    """An answer that has to be waited for."""

    call: Call
    route: Route
    asked: TokenRequest | None
    work: Callable[[Stream], Coroutine[Any, Any, Outcome]]
    """Called once, when there is a task to await it. Its answer is sent by whoever awaits it, unless it has been
    streamed."""


class Outcomes:
    """Makes outcomes of answers and refusals; the three handlers share one. Holds no state of its own."""

    def __init__(self, *, policy: ServerPolicy, index: Index, measures: ServerMetrics, decisions: Decisions) -> None:
        self._policy = policy
        self._index = index
        self._measures = measures
        self.decisions = decisions

    def answered(self, subject: Subject, answer: Answer, route: Route, asked: TokenRequest | None = None) -> Outcome:
        """The outcome of a request that got what it asked for; *answer* may be IMDS's own error."""
        return Outcome(answer, self.series(answer.status, route, subject, asked), subject.call)

    def refused(
        self,
        call: Call,
        refusal: Refusal,
        route: Route = Route.OTHER,
        *,
        allow: tuple[str, ...] = (),
        asked: TokenRequest | None = None,
        subject: Subject | None = None,
    ) -> Outcome:
        """The outcome of a refused request. *subject*: who asked, where that is not the pod at the peer's address."""
        answer = refused(refusal, request_id=call.request, set_retry_after=self._policy.set_retry_after, allow=allow)
        who = self.subject(call) if subject is None else subject
        self._measures.refused(refusal.reason)
        if refusal.limit is not None:
            self._measures.limit_hit(refusal.limit)
        self.decisions.refused(who, route.value, answer.status, refusal, asked)
        return self.answered(who, answer, route, asked)

    def failed(self, call: Call, error: BaseException, route: Route, asked: TokenRequest | None = None) -> Outcome:
        """The outcome of a request that met a defect of ours."""
        self.decisions.failed(self.subject(call), error)
        return self.refused(call, _INTERNAL, route, asked=asked)

    def limit_hit(self, limit: Limit) -> None:
        """Count a limit that bit without a refusal."""
        self._measures.limit_hit(limit)

    def subject(self, call: Call) -> Subject:
        """Who makes *call*."""
        return subject_of(call, self._index.get(call.peer))

    def series(self, status: int, route: Route, subject: Subject, asked: TokenRequest | None) -> Series:
        """Where to count an answer: only a known pod has a namespace, only a token request an audience."""
        namespace = "" if subject.entry is None else subject.entry.namespace
        return self._measures.series(route.value, status, namespace, "" if asked is None else audience(asked.resource))


def subject_of(call: Call, record: PodRecord | None) -> Subject:
    """Who makes *call*, where *record* answers for its peer."""
    owner = None if record is None else record.owner
    return Subject(call, owner) if isinstance(owner, PodEntry) else Subject(call)


def misheaded(request: Request, policy: ServerPolicy) -> Refusal | None:
    """What is wrong with the fields that shield against forgery by way of a server in the pod, or nothing."""
    if request.values("x-forwarded-for") and not policy.allow_x_forwarded_for:
        return _FORWARDED
    return _TWICE if len(request.values("metadata")) > 1 else None


_FORWARDED: Final = Refusal(
    Reason.FORWARDED,
    "A request with X-Forwarded-For is not served.",
    "a proxy in the pod forwards requests: keep it off the metadata address, or see --allow-x-forwarded-for",
)
_TWICE: Final = bad("the header field Metadata more than once")
_INTERNAL: Final = Refusal(
    Reason.INTERNAL, "The request failed because of a defect.", "report the traceback that stands in this log"
)
