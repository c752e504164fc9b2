"""The token path: a pod's request for a token of its identity.

SDKs rely on the order of the checks. A refusal that needs no lookup is returned immediately, so that the 400 for an
SDK's probe never waits. `nmi.token_service` decides whether the pod may have the token.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from _native.answers import ReadyAnswer
from _native.histogram import Series
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.issued_token import ReadyAnswers, TokenIssuer, name_of
from nmi.server.outcomes import Outcome, Outcomes, Work, header_refusal, subject_of
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Request, Stream
from nmi.server.responses import Answer, forwarded, rendered, token_parts
from nmi.server.target import Destination
from nmi.server.token_endpoint import GET_ONLY, NOT_GET, TokenEndpoint
from nmi.tokens.source import Issued
from podidentity.azure.imds import RawAnswer


class TokenPath(TokenEndpoint):
    """The handler of requests on the token path."""

    def __init__(
        self, *, policy: ServerPolicy, issuer: TokenIssuer, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        super().__init__(policy=policy, issuer=issuer, outcomes=outcomes, now_ns=now_ns)
        self._ready = ReadyAnswers()

    def answer(self, call: Call, request: Request, destination: Destination) -> Outcome | Work:
        if request.method != "GET":
            return self._outcomes.refused(call, NOT_GET, allow=GET_ONLY)
        refusal = header_refusal(request, self._policy)
        if refusal is None and self._lacks_metadata_header(request):
            refusal = _NO_METADATA
        if refusal is not None:
            return self._outcomes.refused(call, refusal)
        return self._issue_later(call, destination.query, partial(self._issue, call))

    def _lacks_metadata_header(self, request: Request) -> bool:
        if not self._policy.require_metadata_header:
            return False
        values = request.values("metadata")
        return len(values) != 1 or values[0].lower() != "true"

    async def _issue(self, call: Call, asked: TokenRequest, _: Stream) -> Outcome:
        outcomes = self._outcomes
        issued = await self._issuer.issue(call.peer, asked)
        if isinstance(issued, Refusal):
            return outcomes.refused(call, issued)
        if isinstance(issued, RawAnswer):
            subject = outcomes.subject(call)
            outcomes.decisions.passed(subject, asked, issued.status)
            return outcomes.answered(subject, forwarded(issued, call.request_id))
        subject = subject_of(call, issued.record)
        outcomes.decisions.granted(subject, asked, name_of(issued), issued.usage, issued.correlation)
        series = outcomes.series(200, subject)
        return Outcome(self._render(issued, asked, series), series, call)

    def _render(self, issued: Issued, asked: TokenRequest, series: Series) -> Answer:
        now_ns = self._now_ns()
        # A response with several tokens contains several expires_in, and the fast lane updates only one.
        ready = None if issued.auxiliary else self._ready.admit(issued, asked, series, now_ns)
        if ready is not None:
            return _Ready(ready)
        parts = token_parts(issued.token, issued.auxiliary, issued.expires_ns, now_ns)
        return rendered(parts, issued.expires_ns, now_ns)


class _Ready(msgspec.Struct, frozen=True):
    """A ready answer as an `Answer`: exactly the bytes that the fast lane would write."""

    ready: ReadyAnswer
    status: int = 200
    ends_connection: bool = False

    def render(self, now_ns: int, close: bool = False) -> bytes:
        return self.ready.render(now_ns, close)


_NO_METADATA: Final = Refusal(
    Reason.METADATA_HEADER_MISSING,
    "Required metadata header not specified",
    "an SDK's probe, or a client that does not send Metadata: true; see --metadata-header-required",
)
