"""The parts that the token path and the host token path share."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.call import Call
from nmi.server.issued_token import TokenIssuer
from nmi.server.outcomes import Outcome, Outcomes, Pending
from nmi.server.parameters import token_request
from nmi.server.passthrough import Stream
from nmi.server.policy import ServerPolicy
from nmi.server.target import CanonicalPath

GET_ONLY: Final = ("GET",)


class TokenEndpoint:
    """Base class of the handlers that return tokens."""

    canonical_path: CanonicalPath

    def __init__(
        self, *, policy: ServerPolicy, issuer: TokenIssuer, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._issuer = issuer
        self._outcomes = outcomes
        self._now_ns = now_ns

    def _issue_later(
        self, call: Call, query: str, issue: Callable[[TokenRequest, Stream], Coroutine[Any, Any, Outcome]]
    ) -> Outcome | Pending:
        """Return the work that *issue* does for the token request in *query*, or the refusal of the query."""
        asked = token_request(query)
        if isinstance(asked, Refusal):
            return self._outcomes.refused(call, asked, self.canonical_path)
        return Pending(call, self.canonical_path, asked, partial(issue, asked))


NOT_GET: Final = Refusal(Reason.METHOD_NOT_ALLOWED, "Request tokens with GET.", "see which client sends it")
