"""From a request to its outcome: the order of checks that SDKs rely on.

What can be said at once is returned at once, so a probe's 400 waits for nothing; what has to wait is handed back as
work to do. Who may have a token is not decided here (`nmi.issuer`), and neither is a status code (`responses`).
"""

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from _native.answers import ReadyAnswer, Usage
from _native.histogram import Series
from _native.index import Index, PodRecord
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decisions import Decisions, Subject, redacted
from nmi.server.head import bad
from nmi.server.measures import Measures, audience
from nmi.server.parameters import token_request
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import Answer, PlainAnswer, refused, timeless_token, token_parts
from nmi.server.target import Action, Destination, Route, resolve
from nmi.tokens.token import Token

log = logging.getLogger(__name__)

GET_ONLY: Final = ("GET",)
READING: Final = ("GET", "HEAD")
PROXIED: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Granted(Protocol):
    """What the handlers need of `nmi.issuer.Issued`."""

    @property
    def token(self) -> Token: ...
    @property
    def record(self) -> PodRecord: ...
    @property
    def generation(self) -> int: ...
    @property
    def expires_ns(self) -> int: ...
    @property
    def fresh_until_ns(self) -> int: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def cacheable(self) -> bool: ...
    @property
    def identity(self) -> str:
        """The AzureIdentity's `namespace/name`."""


class TokenIssuer(Protocol):
    """`nmi.issuer.Issuer`."""

    async def issue(self, peer: str, request: TokenRequest) -> Granted | Refusal: ...


class Forwarder(Protocol):
    """`nmi.server.passthrough.MetadataProxy`."""

    async def forward(self, charged: str, request: Request, destination: Destination) -> PlainAnswer | Refusal: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, and where its time is to be counted."""

    answer: Answer
    series: Series


Pending = Callable[[], Coroutine[Any, Any, Outcome]]
"""Called once, when there is a task to await it."""


class Handlers:
    """Answers requests of any peer. Holds no state of its own."""

    def __init__(
        self,
        *,
        policy: ServerPolicy,
        index: Index,
        issuer: TokenIssuer,
        proxy: Forwarder,
        measures: Measures,
        decisions: Decisions,
        now_ns: Callable[[], int],
    ) -> None:
        self._policy = policy
        self._index = index
        self._issuer = issuer
        self._proxy = proxy
        self._measures = measures
        self._decisions = decisions
        self._now_ns = now_ns

    def answer(self, peer: str, request: Request) -> Outcome | Pending:
        """What *peer* gets for *request*: at once, or what has to be called and awaited."""
        destination = resolve(request.target, self._policy.forwarding)
        match destination.action:
            case Action.TOKEN:
                return self._token(peer, request, destination)
            case Action.PROXY:
                return self._forwarded(peer, request, destination)
            case Action.HOST_TOKEN:
                refusal = _NO_HOST_TOKENS
            case Action.REFUSE_DISGUISE:
                refusal = _DISGUISED
            case Action.REFUSE_UNKNOWN:
                refusal = _UNKNOWN
        return self.refuse(peer, refusal, destination.route)

    def refuse(
        self,
        peer: str,
        refusal: Refusal,
        route: Route = Route.OTHER,
        *,
        allow: tuple[str, ...] = (),
        asked: TokenRequest | None = None,
    ) -> Outcome:
        """The outcome of a refused request, counted and logged."""
        answer = refused(refusal, set_retry_after=self._policy.set_retry_after, allow=allow)
        subject, namespace = self._subject(peer)
        self._measures.refused(refusal.reason)
        self._decisions.refused(subject, route.value, answer.status, refusal, asked)
        resource = "" if asked is None else audience(asked.resource)
        return Outcome(answer, self._measures.series(route.value, answer.status, namespace, resource))

    def failed(self, peer: str, error: BaseException) -> Outcome:
        """The outcome of a request that met a defect of ours."""
        self._decisions.failed(self._subject(peer)[0], error)
        return self.refuse(peer, _INTERNAL)

    def late(self, peer: str, *, stopping: bool = False) -> Outcome:
        """The outcome of a request whose answer was not there in time, or before this server had to stop."""
        return self.refuse(peer, _STOPPING if stopping else _LATE)

    def _token(self, peer: str, request: Request, destination: Destination) -> Outcome | Pending:
        if request.method != "GET":
            return self.refuse(peer, _NOT_GET, destination.route, allow=GET_ONLY)
        refusal = self._misheaded(request)
        if refusal is not None:
            return self.refuse(peer, refusal, destination.route)
        if self._unshielded(request):
            return self.refuse(peer, _NO_METADATA, destination.route)
        asked = token_request(destination.query)
        if isinstance(asked, Refusal):
            return self.refuse(peer, asked, destination.route)
        return partial(self._issued, peer, asked)

    def _misheaded(self, request: Request) -> Refusal | None:
        """What is wrong with the fields that shield against forgery by way of a server in the pod, or nothing."""
        if request.values("x-forwarded-for") and not self._policy.allow_x_forwarded_for:
            return _FORWARDED
        if len(request.values("metadata")) > 1:
            return _TWICE
        return None

    def _unshielded(self, request: Request) -> bool:
        return self._policy.require_metadata_header and [each.lower() for each in request.values("metadata")] != [
            "true"
        ]

    async def _issued(self, peer: str, asked: TokenRequest) -> Outcome:
        granted = await self._issuer.issue(peer, asked)
        if isinstance(granted, Refusal):
            return self.refuse(peer, granted, Route.TOKEN, asked=asked)
        subject, namespace = self._subject_of(peer, granted.record)
        series = self._measures.series(Route.TOKEN.value, 200, namespace, audience(asked.resource))
        self._decisions.granted(subject, asked, granted.identity or redacted(granted.token.client_id), granted.usage)
        return Outcome(self._rendered(granted, asked, series), series)

    def _rendered(self, granted: Granted, asked: TokenRequest, series: Series) -> Answer:
        """The answer that carries the token; from now on the fast lane gives it, if it may."""
        now_ns = self._now_ns()
        before, after = parts = token_parts(granted.token, granted.expires_ns, now_ns)
        try:
            ready = ReadyAnswer(
                before=before,
                after=after,
                expires_ns=granted.expires_ns,
                fresh_until_ns=granted.fresh_until_ns,
                series=series,
                usage=granted.usage,
            )
        except ValueError:  # over 64 KiB: a pod may have it, but not keep it in our memory
            return timeless_token(parts, granted.expires_ns, now_ns)
        if granted.cacheable:
            granted.record.admit(
                granted.generation,
                resource=asked.resource.encode(),
                selector_kind=asked.selector.value,
                selector_value=asked.selector_value.encode(),
                xms_cc=asked.xms_cc.encode(),
                answer=ready,
            )
        return _Ready(ready)

    def _forwarded(self, peer: str, request: Request, destination: Destination) -> Outcome | Pending:
        route = destination.route
        if route is Route.INSTANCE and self._policy.block_instance_metadata:
            return self.refuse(peer, _BLOCKED, route)
        methods = READING if route is Route.INSTANCE else PROXIED
        if request.method not in methods:
            return self.refuse(peer, _OTHER_METHOD, route, allow=methods)
        refusal = self._misheaded(request)
        if refusal is not None:
            return self.refuse(peer, refusal, route)
        return partial(self._proxied, peer, request, destination)

    async def _proxied(self, peer: str, request: Request, destination: Destination) -> Outcome:
        subject, namespace = self._subject(peer)
        answer = await self._proxy.forward(subject.key, request, destination)
        if isinstance(answer, Refusal):
            return self.refuse(peer, answer, destination.route)
        return Outcome(answer, self._measures.series(destination.route.value, answer.status, namespace, ""))

    def _subject(self, peer: str) -> tuple[Subject, str]:
        return self._subject_of(peer, self._index.get(peer))

    def _subject_of(self, peer: str, record: PodRecord | None) -> tuple[Subject, str]:
        """Who asks, and the namespace for the metric: only a known pod has one."""
        owner = None if record is None else record.owner
        if isinstance(owner, PodEntry):
            return Subject(peer, owner.key), owner.namespace
        return Subject(peer), ""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A ready answer as an `Answer`: the very bytes that the fast lane would write."""

    ready: ReadyAnswer
    status: int = 200
    ends_connection: bool = False

    def render(self, now_ns: int, close: bool = False) -> bytes:
        return self.ready.render(now_ns, close)


_NOT_GET: Final = Refusal(Reason.METHOD_NOT_ALLOWED, "Tokens are to be asked for by GET.", "see which client sends it")
_OTHER_METHOD: Final = Refusal(
    Reason.METHOD_NOT_ALLOWED,
    "This method is not allowed here.",
    "the method is not proxied; see which client sends it",
)
_FORWARDED: Final = Refusal(
    Reason.FORWARDED,
    "A request with X-Forwarded-For is not served.",
    "a proxy in the pod forwards requests: keep it off the metadata address, or see --allow-x-forwarded-for",
)
_TWICE: Final = bad("the header field Metadata more than once")
_NO_METADATA: Final = Refusal(
    Reason.METADATA_HEADER_MISSING,
    "Required metadata header not specified",
    "an SDK's probe, or a client that does not send Metadata: true; see --metadata-header-required",
)
_DISGUISED: Final = Refusal(
    Reason.DISGUISED_PATH,
    "This is not a spelling of a path that is served here.",
    "a client is broken, or something tries to get around NMI: see what runs at the peer",
)
_UNKNOWN: Final = Refusal(
    Reason.UNKNOWN_PATH,
    "There is nothing here.",
    "the path is not proxied; --allow-metadata-path allows more of them",
)
_NO_HOST_TOKENS: Final = Refusal(
    Reason.UNKNOWN_PATH,
    "Tokens for pods on the host network are not served by this version.",
    "host tokens are not served: ask from the pod's own network",
)
_BLOCKED: Final = Refusal(
    Reason.BLOCKED_PATH, "Instance metadata is blocked on this node.", "blocked by --block-instance-metadata"
)
_LATE: Final = Refusal(Reason.TIMED_OUT, "The answer was not there in time.", "see what the token sources log")
_STOPPING: Final = Refusal(
    Reason.TIMED_OUT,
    "The token server of this node stops; try again.",
    "NMI stops, and the request still waited at the end of the drain: nothing to do, its client tries again",
)
_INTERNAL: Final = Refusal(
    Reason.INTERNAL, "The request failed because of a defect.", "report the traceback that stands in this log"
)
