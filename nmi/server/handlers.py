"""The dispatcher of requests: it selects the handler and returns the outcome of a request.

Handlers return an outcome immediately if they can, else the work that leads to it. They are `TokenPath`, `HostPath`
and `ProxiedPath`. `responses` defines the status codes.
"""

from collections.abc import Callable
from typing import Final

from _native.index import Index
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.decisions import Decisions
from nmi.server.loop_detection import FIELD, LOOPED
from nmi.server.metrics import ServerMetrics
from nmi.server.outcomes import Outcome, Outcomes, Work
from nmi.server.passthrough import NEVER, OTHER_METHOD, READING, Forwarder, ProxiedPath
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Origin, Request
from nmi.server.target import Action, CanonicalPath, resolve
from nmi.server.token_path import HostPath, TokenPath, TokenProvider


class Handlers:
    """Dispatcher for requests of any peer. It has no state."""

    def __init__(
        self,
        *,
        policy: ServerPolicy,
        index: Index,
        token_service: TokenProvider,
        proxy: Forwarder[str],
        measures: ServerMetrics,
        decisions: Decisions,
        now_ns: Callable[[], int],
    ) -> None:
        self._policy = policy
        self._outcomes = Outcomes(policy=policy, index=index, measures=measures, decisions=decisions, now_ns=now_ns)
        self._token = TokenPath(policy=policy, token_service=token_service, outcomes=self._outcomes, now_ns=now_ns)
        self._host = HostPath(policy=policy, token_service=token_service, outcomes=self._outcomes, now_ns=now_ns)
        self._proxied = ProxiedPath(policy=policy, proxy=proxy, outcomes=self._outcomes)

    def handle(self, origin: Origin, call: Call, request: Request) -> Outcome | Work:
        """Return the outcome of *request* from *origin*, or the work that leads to it. Set the path of *call*, and the
        token request if there is one.
        """
        try:
            destination = resolve(request.target, self._policy.proxied_paths)
            call.path = destination.canonical_path
            # No rule redirects the node's own processes, so this comes before the check of the redirect.
            if destination.action is Action.HOST_TOKEN and not _is_from_nmi(request):
                return self._host.handle(origin, call, request, destination)
            refusal = _refusal(origin, request, destination.action)
            if refusal is OTHER_METHOD:
                call.path = CanonicalPath.OTHER  # such a method is refused for every path
                return self._outcomes.refused(call, refusal, allow=READING)
            if refusal is not None:
                return self._outcomes.refused(call, refusal)
            handler = self._token if destination.action is Action.TOKEN else self._proxied
            return handler.handle(call, request, destination)
        except Exception as error:  # noqa: BLE001 - the outermost handler: logged once, answered 500
            return self._outcomes.failed(call, error)

    def malformed(self, call: Call, refusal: Refusal) -> Outcome:
        """Return the outcome of bytes that are not a request."""
        return self._outcomes.refused(call, refusal)

    def failed(self, call: Call, error: BaseException) -> Outcome:
        """Return the outcome of a request that failed because of a defect in NMI."""
        return self._outcomes.failed(call, error)

    def timed_out(self, call: Call, *, stopping: bool = False) -> Outcome:
        """Return the outcome of a request without a response at its timeout, or when the server stops."""
        return self._outcomes.refused(call, _STOPPING if stopping else _LATE)

    def client_left(self, call: Call) -> None:
        """Record that the client of *call* disconnected before its response."""
        self._outcomes.client_left(call)

    def limit_hit(self, limit: Limit) -> None:
        """Count a limit that took effect without a refusal."""
        self._outcomes.limit_hit(limit)


def _refusal(origin: Origin, request: Request, action: Action) -> Refusal | None:
    """Return the refusal of a request that no handler may get; None if one may."""
    # Before every other check: whatever the request is, it must not circle.
    if _is_from_nmi(request):
        return LOOPED
    if not origin.was_redirected():
        return _NOT_REDIRECTED
    if request.method in NEVER and action is not Action.TOKEN:
        return OTHER_METHOD
    return _REFUSED.get(action)


def _is_from_nmi(request: Request) -> bool:
    """Return whether *request* has the mark of NMI's own requests, with any value."""
    return bool(request.values(FIELD))


_DISGUISED: Final = Refusal(
    Reason.DISGUISED_PATH,
    "This is not a spelling of a path that is served here.",
    "a client has a fault, or a process tries to bypass NMI; check the processes at the peer address",
)
_UNKNOWN: Final = Refusal(
    Reason.UNKNOWN_PATH,
    "There is nothing here.",
    "the path is not proxied; --allow-metadata-path allows further paths",
)
_REFUSED: Final = {Action.REFUSE_DISGUISE: _DISGUISED, Action.REFUSE_UNKNOWN: _UNKNOWN}
_NOT_REDIRECTED: Final = Refusal(
    Reason.NOT_REDIRECTED,
    "Ask at the metadata service's own address.",
    "a process connected directly to NMI's port, which --require-redirected forbids; check the processes at the peer "
    "address",
)
_LATE: Final = Refusal(
    Reason.TIMED_OUT, "The answer was not there in time.", "check the log of the token sources", limit=Limit.ANSWER
)
_STOPPING: Final = Refusal(
    Reason.TIMED_OUT,
    "The token server of this node stops; try again.",
    "NMI stops, and the request still waited at the end of the drain; nothing to do: its client retries",
)
