"""Outcomes of requests: the response, its metrics and its log line. Each refusal is handled here exactly once."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

import msgspec

from _native.histogram import Series
from _native.index import Index, PodRecord
from _native.ready_responses import SharedResponse, SharedText, Usage
from nmi.identity.pod_entry import PodEntry
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.decisions import Decisions, Subject
from nmi.server.head import bad
from nmi.server.metrics import ServerMetrics, audience
from nmi.server.policy import ServerPolicy
from nmi.server.ready_refusals import ReadyRefusals, RefusedRequest, kinds_of
from nmi.server.request import Call, Request, Stream
from nmi.server.responses import Response
from nmi.server.responses import refused as refusal_response
from nmi.server.target import CanonicalPath

TARGET_BYTES_MAX: Final = 2048
"""A longer target is left to the general lane."""
UNANSWERED_SECONDS_MIN: Final = 1.0
"""An ordinary fetch takes less, and clients wait longer: one that leaves earlier has a reason of its own."""


class Outcome(msgspec.Struct, frozen=True):
    """A response, its call, and the metric series of its duration."""

    response: Response
    series: Series
    call: Call


Work = Callable[[Stream], Coroutine[Any, Any, Outcome]]
"""The asynchronous work that leads to an outcome. Called once, in a task, which sends the response if not streamed."""


class Outcomes:
    """Factory of outcomes from responses and refusals, shared by the three handlers."""

    def __init__(
        self,
        *,
        policy: ServerPolicy,
        index: Index,
        measures: ServerMetrics,
        decisions: Decisions,
        now_ns: Callable[[], int],
    ) -> None:
        self._policy = policy
        self._index = index
        self._measures = measures
        self.decisions = decisions
        self._now_ns = now_ns
        self._ready = ReadyRefusals(now_ns)

    def served(self, subject: Subject, response: Response) -> Outcome:
        """Return the outcome of a served request; *response* may be IMDS's own error."""
        return Outcome(response, self.series(response.status, subject), subject.call)

    def refused(
        self,
        call: Call,
        refusal: Refusal,
        *,
        allow: tuple[str, ...] = (),
        subject: Subject | None = None,
    ) -> Outcome:
        """Return the outcome of a refused request. *subject*: the caller, if it is not the pod at the peer address."""
        response = refusal_response(
            refusal, request_id=call.request_id, set_retry_after=self._policy.set_retry_after, allow=allow
        )
        caller = subject_of(call, self._index.get(call.peer)) if subject is None else subject
        self._measures.refused(refusal.reason)
        if refusal.limit is not None:
            self._measures.limit_hit(refusal.limit)
        usage = self.decisions.refused(caller, str(call.path), response.status, refusal, call.token_request)
        outcome = self.served(caller, response)
        # A request to /host/token names its pod, so its refusal is not about the pod at the peer's address.
        if call.path is not CanonicalPath.HOST_TOKEN:
            counter = self._measures.refusal_counter(refusal.reason)
            repeated = RefusedRequest(response, call.request_id, outcome.series, usage, counter)
            self._make_ready(call, refusal, repeated)
        return outcome

    def _make_ready(self, call: Call, refusal: Refusal, refused: RefusedRequest) -> None:
        """Let the fast lane send the response to further requests that would get the same refusal."""
        record, request = self._index.get(call.peer), call.token_request
        if request is None:
            kinds = kinds_of(refusal, call.path, self._policy.proxied_paths)
            if kinds:
                self._ready.admit_kinds(self._index.unknown(call.peer) if record is None else record, kinds, refused)
        # A pod may get the address soon, so the refusal lasts only as long as the failed lookup counts.
        elif record is None and refusal.unknown_seconds:
            record = self._index.unknown(call.peer)
            self._ready.admit_request(record, record.generation, request, refused, refusal.unknown_seconds)
        # The generation of the decision: a change since then must end the refusal.
        elif record is not None and refusal.generation is not None:
            self._ready.admit_request(record, refusal.generation, request, refused)

    def make_metadata_ready(self, call: Call, request: Request, text: SharedText, usage: Usage) -> None:
        """Let the fast lane send *text* to further GETs of the same target, counted for the pod at the peer address."""
        record, target = self._index.get(call.peer), request.target.encode()
        if record is not None and len(target) <= TARGET_BYTES_MAX:
            series = self.series(HTTPStatus.OK, subject_of(call, record))
            record.admit_metadata(record.generation, target, SharedResponse(text=text, series=series, usage=usage))

    def failed(self, call: Call, error: BaseException) -> Outcome:
        """Return the outcome of a request that failed because of a defect in NMI."""
        self.decisions.failed(self.subject(call), error)
        return self.refused(call, _INTERNAL)

    def client_left(self, call: Call) -> None:
        """Record that the client of *call* disconnected before the response to a token request, if it had waited."""
        request, refusal = call.token_request, call.unanswered
        # A pod that refreshes its token, or reports it as rejected, has one.
        if request is None or refusal is None or request.force_refresh or request.rejected_sha256:
            return
        seconds = (self._now_ns() - call.begun_ns) / 1e9
        if seconds >= UNANSWERED_SECONDS_MIN:
            self.decisions.unanswered(Subject(call, call.entry), request, refusal, seconds)

    def limit_hit(self, limit: Limit) -> None:
        """Count a limit that took effect without a refusal."""
        self._measures.limit_hit(limit)

    def subject(self, call: Call) -> Subject:
        """Return the caller of *call*."""
        return subject_of(call, self._index.get(call.peer))

    def series(self, status: int, subject: Subject) -> Series:
        """Return the metric series of a response. Only known pods have a namespace, only token requests an audience."""
        call = subject.call
        namespace = "" if subject.entry is None else subject.entry.namespace
        request = call.token_request
        return self._measures.series(
            str(call.path), status, namespace, "" if request is None else audience(request.resource)
        )


def subject_of(call: Call, record: PodRecord | None) -> Subject:
    """Return the caller of *call*. *record* is the pod record of its peer address."""
    owner = None if record is None else record.owner
    return Subject(call, owner) if isinstance(owner, PodEntry) else Subject(call)


def header_refusal(request: Request, policy: ServerPolicy) -> Refusal | None:
    """Return the refusal of the fields that protect against request forgery through a server in the pod, or None."""
    # The field shows that another client than the pod has caused the request.
    if request.values("x-forwarded-for") and not policy.allow_x_forwarded_for:
        return _FORWARDED
    return _TWICE if len(request.values("metadata")) > 1 else None


_FORWARDED: Final = Refusal(
    Reason.FORWARDED,
    "A request with X-Forwarded-For is not served.",
    "a proxy in the pod forwards requests; exclude the metadata address there, or set --allow-x-forwarded-for",
)
_TWICE: Final = bad("the header field Metadata more than once")
_INTERNAL: Final = Refusal(
    Reason.INTERNAL, "The request failed because of a defect.", "report the traceback in this log"
)
