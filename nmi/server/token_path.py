"""The token path: a pod's request for a token of an identity of its own.

The order of checks is the one that SDKs rely on. What can be said at once is returned at once, so a probe's 400 waits
for nothing. Who may have a token is not decided here (`nmi.issuer`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from _native.answers import ReadyAnswer
from _native.histogram import Series
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.call import Call
from nmi.server.granting import Granted, ReadyAnswers, TokenIssuer, name_of
from nmi.server.outcomes import Outcome, Outcomes, Pending, misheaded, subject_of
from nmi.server.parameters import token_request
from nmi.server.passthrough import Stream
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import Answer, passed_on, timeless, token_parts
from nmi.server.target import Destination, Route
from podidentity.azure.imds import RawAnswer

GET_ONLY: Final = ("GET",)


class TokenPath:
    """Answers requests on the token path."""

    def __init__(
        self, *, policy: ServerPolicy, issuer: TokenIssuer, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._issuer = issuer
        self._outcomes = outcomes
        self._now_ns = now_ns
        self._ready = ReadyAnswers()

    def answer(self, call: Call, request: Request, destination: Destination) -> Outcome | Pending:
        if request.method != "GET":
            return self._outcomes.refused(call, NOT_GET, Route.TOKEN, allow=GET_ONLY)
        refusal = misheaded(request, self._policy)
        if refusal is None and self._unshielded(request):
            refusal = _NO_METADATA
        asked = refusal or token_request(destination.query)
        if isinstance(asked, Refusal):
            return self._outcomes.refused(call, asked, Route.TOKEN)
        return Pending(call, Route.TOKEN, asked, partial(self._issued, call, asked))

    def _unshielded(self, request: Request) -> bool:
        if not self._policy.require_metadata_header:
            return False
        return [each.lower() for each in request.values("metadata")] != ["true"]

    async def _issued(self, call: Call, asked: TokenRequest, _: Stream) -> Outcome:
        outcomes = self._outcomes
        granted = await self._issuer.issue(call.peer, asked)
        if isinstance(granted, Refusal):
            return outcomes.refused(call, granted, Route.TOKEN, asked=asked)
        if isinstance(granted, RawAnswer):
            subject = outcomes.subject(call)
            outcomes.decisions.passed(subject, asked, granted.status)
            return outcomes.answered(subject, passed_on(granted, call.request), Route.TOKEN, asked)
        subject = subject_of(call, granted.record)
        outcomes.decisions.granted(subject, asked, name_of(granted), granted.usage, granted.correlation)
        series = outcomes.series(200, Route.TOKEN, subject, asked)
        return Outcome(self._rendered(granted, asked, series), series, call)

    def _rendered(self, granted: Granted, asked: TokenRequest, series: Series) -> Answer:
        now_ns = self._now_ns()
        # The lives of several tokens stand in one answer, and the fast lane writes one anew.
        ready = None if granted.auxiliary else self._ready.admitted(granted, asked, series, now_ns)
        if ready is not None:
            return _Ready(ready)
        parts = token_parts(granted.token, granted.auxiliary, granted.expires_ns, now_ns)
        return timeless(parts, granted.expires_ns, now_ns)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A ready answer as an `Answer`: the very bytes that the fast lane would write."""

    ready: ReadyAnswer
    status: int = 200
    ends_connection: bool = False

    def render(self, now_ns: int, close: bool = False) -> bytes:
        return self.ready.render(now_ns, close)


NOT_GET: Final = Refusal(Reason.METHOD_NOT_ALLOWED, "Tokens are to be asked for by GET.", "see which client sends it")
_NO_METADATA: Final = Refusal(
    Reason.METADATA_HEADER_MISSING,
    "Required metadata header not specified",
    "an SDK's probe, or a client that does not send Metadata: true; see --metadata-header-required",
)
