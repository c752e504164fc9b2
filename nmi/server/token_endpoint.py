"""The parts that the token path and the host token path share."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.issued_token import TokenIssuer
from nmi.server.outcomes import Outcome, Outcomes, Work
from nmi.server.parameters import token_request
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Stream

GET_ONLY: Final = ("GET",)


class TokenEndpoint:
    """Base class of the handlers that return tokens."""

    def __init__(
        self, *, policy: ServerPolicy, issuer: TokenIssuer, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._issuer = issuer
        self._outcomes = outcomes
        self._now_ns = now_ns

    def _issue_later(
        self, call: Call, query: str, issue: Callable[[TokenRequest, Stream], Coroutine[Any, Any, Outcome]]
    ) -> Outcome | Work:
        """Return the work that *issue* does for the token request in *query*, or the refusal of the query."""
        request = token_request(query)
        if isinstance(request, Refusal):
            return self._outcomes.refused(call, request)
        call.token_request = request
        return partial(issue, request)


NOT_GET: Final = Refusal(Reason.METHOD_NOT_ALLOWED, "Request tokens with GET.", "see which client sends it")
