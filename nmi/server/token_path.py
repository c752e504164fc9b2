"""The handlers of token requests: the token path, and /host/token.

`nmi.token_service` decides whether a pod gets a token.
"""

import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import msgspec

from _native.histogram import Series
from _native.ready_responses import ReadyResponse, TokenResponse
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decisions import Subject
from nmi.server.outcomes import Outcome, Outcomes, Work, header_refusal, subject_of
from nmi.server.parameters import token_request
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Origin, Request, Stream
from nmi.server.responses import Response, forwarded, host_token_parts, named_in, rendered, token_parts
from nmi.server.target import Destination
from nmi.tokens.source import Issued, Token
from podidentity.azure.imds import RawResponse
from podidentity.telemetry.logs import redacted

LOOPBACK: Final = "127.0.0.1"
_GET_ONLY: Final = ("GET",)
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE: Final = re.compile(_LABEL)
"""An RFC 1123 label: the API server's rule for namespaces."""
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
"""An RFC 1123 subdomain: the API server's rule for pods."""
SHARED_MAX: Final = 256
"""Responses of one token beyond which one that repeats a selector is not shared."""
_Key = tuple[Series | tuple[str, str], ...]


class TokenProvider(Protocol):
    """The interface of `nmi.token_service.TokenService` that the handlers use."""

    async def issue(self, peer: str, request: TokenRequest, record: Call) -> Issued | RawResponse | Refusal:
        """Return a token for the pod at *peer*. A cancellation sets what *record* waited for."""

    async def issue_for(self, namespace: str, name: str, request: TokenRequest) -> Issued | RawResponse | Refusal:
        """Return a token for the named pod of this node, with any network; never one of the node's own identity."""


class TokenEndpoint:
    """Base class of the handlers that return tokens."""

    def __init__(
        self, *, policy: ServerPolicy, token_service: TokenProvider, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._token_service = token_service
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


class TokenPath(TokenEndpoint):
    """The handler of the token path: a pod's request for a token of its identity.

    SDKs rely on the order of the checks. A refusal that needs no lookup is returned immediately, so that the 400 for an
    SDK's probe never waits.
    """

    def __init__(
        self, *, policy: ServerPolicy, token_service: TokenProvider, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        super().__init__(policy=policy, token_service=token_service, outcomes=outcomes, now_ns=now_ns)
        self._ready = ReadyResponses()

    def handle(self, call: Call, request: Request, destination: Destination) -> Outcome | Work:
        # SDKs rely on this order: method, forwarded request, missing header, parameters.
        if request.method != "GET":
            return self._outcomes.refused(call, _NOT_GET, allow=_GET_ONLY)
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

    async def _issue(self, call: Call, request: TokenRequest, _: Stream) -> Outcome:
        outcomes = self._outcomes
        issued = await self._token_service.issue(call.peer, request, call)
        if isinstance(issued, Refusal):
            return outcomes.refused(call, issued)
        if isinstance(issued, RawResponse):
            subject = outcomes.subject(call)
            outcomes.decisions.passed(subject, request, issued.status)
            return outcomes.served(subject, forwarded(issued, call.request_id))
        subject = subject_of(call, issued.record)
        outcomes.decisions.granted(subject, request, _name_of(issued), issued.usage, issued.correlation)
        series = outcomes.series(200, subject)
        return Outcome(self._render(issued, request, series), series, call)

    def _render(self, issued: Issued, request: TokenRequest, series: Series) -> Response:
        now_ns = self._now_ns()
        # A response with several tokens contains several expires_in, and the fast lane updates only one.
        ready = None if issued.auxiliary else self._ready.admit(issued, request, series, now_ns)
        if ready is not None:
            return _Ready(ready)
        parts = token_parts(issued.token, issued.auxiliary, issued.expires_ns, now_ns, named_in(request))
        return rendered(parts, issued.expires_ns, now_ns)


class HostPath(TokenEndpoint):
    """The handler of /host/token: the token of a pod for a process on the node, which names the pod.

    Off by default. If enabled, every process on the host network may request tokens over the node's loopback address. A
    redirected connection comes from a pod that imitates a process of the node, and is refused. The header fields podns
    and podname protect against forged requests (a browser or a forwarder adds neither), so `Metadata` is not required,
    as in the Go implementation. The kubelet runs on the host network too, and a pod's author chooses address, path and
    most header fields of its probes: requests that look like a probe are refused (`_is_probe`). The handler looks up
    nothing and reveals nothing about a pod before all of these checks have passed.
    """

    def handle(self, origin: Origin, call: Call, request: Request, destination: Destination) -> Outcome | Work:
        if not self._policy.host_tokens:
            return self._outcomes.refused(call, _DISABLED)
        refusal = _caller_refusal(origin, call, request)
        if refusal is not None:
            return self._outcomes.refused(call, refusal)
        if request.method != "GET":
            return self._outcomes.refused(call, _NOT_GET, allow=_GET_ONLY)
        pod = header_refusal(request, self._policy) or _pod_in(request)
        if isinstance(pod, Refusal):
            return self._outcomes.refused(call, pod)
        return self._issue_later(call, destination.query, partial(self._issue, call, pod))

    async def _issue(self, call: Call, pod: tuple[str, str], request: TokenRequest, _: Stream) -> Outcome:
        outcomes = self._outcomes
        subject = Subject(call, pod="/".join(pod))
        issued = await self._token_service.issue_for(*pod, request)
        # A process of the node must not get the node's own identities by the name of an exempt pod.
        if isinstance(issued, RawResponse):
            issued = _NO_NODE_TOKENS
        if isinstance(issued, Refusal):
            return outcomes.refused(call, issued, subject=subject)
        owner = subject_of(call, issued.record)
        subject = Subject(call, pod=subject.pod, uid=issued.uid) if owner.entry is None else owner
        outcomes.decisions.granted(subject, request, _name_of(issued), issued.usage, issued.correlation)
        now_ns = self._now_ns()
        parts = host_token_parts(issued.token, issued.expires_ns, now_ns)
        return outcomes.served(subject, rendered(parts, issued.expires_ns, now_ns))


def _caller_refusal(origin: Origin, call: Call, request: Request) -> Refusal | None:
    """Return the refusal of a caller that is not a process of the node, or is a probe."""
    # A redirected connection from the loopback address belongs to a pod that imitates the node.
    if call.peer != LOOPBACK or origin.original_destination() is not None:
        return _NOT_FROM_HOST
    return _PROBE if _is_probe(request) else None


def _is_probe(request: Request) -> bool:
    """Return whether the kubelet may have sent the request for a pod's probe or lifecycle hook.

    Its User-Agent shows this unless the pod's author has overridden it. The author cannot remove a second sign: the
    kubelet disables keep-alive for probes, and Go's HTTP client then sends `Connection: close`, unless the request
    requests an upgrade (Kubernetes: pkg/probe/http/http.go; Go: net/http/transport.go, persistConn.roundTrip). Only
    the User-Agent identifies a lifecycle hook.
    """
    if any(agent.lower().startswith(_KUBELET) for agent in request.values("user-agent")):
        return True
    options = {option.strip().lower() for value in request.values("connection") for option in value.split(",")}
    return not options.isdisjoint({"close", "upgrade"}) or bool(request.values("upgrade"))


def _pod_in(request: Request) -> tuple[str, str] | Refusal:
    """Return namespace and name of the pod that *request* names."""
    namespaces, names = request.values("podns"), request.values("podname")
    if len(namespaces) != 1 or len(names) != 1:
        return _NO_POD
    # Both become parts of a path of the API server.
    if _NAMESPACE.fullmatch(namespaces[0]) is None or _NAME.fullmatch(names[0]) is None:
        return _NO_NAME
    return namespaces[0], names[0]


def _name_of(issued: Issued) -> str:
    """Return the name of the identity for the log."""
    return issued.identity or redacted(issued.token.client_id)


class ReadyResponses:
    """Ready responses, each created once for all pods with the same token and the same metric series.

    Thousands of pods may share one identity, and a response takes 2 kB. It is freed with its token and the last pod
    record that contains it.
    """

    def __init__(self) -> None:
        self._by_token: WeakKeyDictionary[Token, dict[_Key, ReadyResponse]] = WeakKeyDictionary()

    def admit(self, issued: Issued, request: TokenRequest, series: Series, now_ns: int) -> ReadyResponse | None:
        """Return the ready response and admit it to the pod record if it is cacheable; None if it is too large."""
        responses = self._by_token.setdefault(issued.token, {})
        named = named_in(request)
        key: _Key = (series, *named.items())
        ready = responses.get(key)
        if ready is None or not _is_of(ready, issued):
            before, after = token_parts(issued.token, (), issued.expires_ns, now_ns, named)
            try:
                ready = TokenResponse(
                    before=before,
                    after=after,
                    expires_ns=issued.expires_ns,
                    fresh_until_ns=issued.fresh_until_ns,
                    series=series,
                    usage=issued.usage,
                )
            except ValueError:  # over 64 KiB: returned to the pod, but not kept in memory
                return None
            # A pod chooses the spelling of a selector, so the responses that others may share are limited.
            if not named or len(responses) < SHARED_MAX:
                responses[key] = ready
        if issued.cacheable:
            issued.record.admit(
                issued.generation,
                resource=request.resource.encode(),
                selector_kind=request.selector.value,
                selector_value=request.selector_value.encode(),
                xms_cc=request.xms_cc.encode(),
                response=ready,
            )
        return ready


def _is_of(ready: ReadyResponse, issued: Issued) -> bool:
    """Return whether *ready*, which has the same token, equals the ready response of *issued* in times and usage."""
    return (
        ready.expires_ns == issued.expires_ns
        and ready.fresh_until_ns == issued.fresh_until_ns
        and ready.usage is issued.usage
    )


class _Ready(msgspec.Struct, frozen=True):
    """A ready response as a `Response`: exactly the bytes that the fast lane would write."""

    ready: ReadyResponse
    status: int = 200
    ends_connection: bool = False

    def render(self, now_ns: int, close: bool = False) -> bytes:
        return self.ready.render(now_ns, close)


_NOT_GET: Final = Refusal(
    Reason.METHOD_NOT_ALLOWED,
    "Request tokens with GET.",
    "the application requested a token with another method, such as POST: let it use GET",
)
_NO_METADATA: Final = Refusal(
    Reason.METADATA_HEADER_MISSING,
    "Required metadata header not specified",
    "an SDK's probe, or a client that does not send Metadata: true; see --metadata-header-required",
)
_DISABLED: Final = Refusal(
    Reason.UNKNOWN_PATH, "There is nothing here.", "host tokens are disabled: --host-token-types names no type"
)
_NOT_FROM_HOST: Final = Refusal(
    Reason.NOT_FROM_HOST,
    "Host tokens are for processes on the node.",
    "a pod requests other pods' tokens at /host/token; check the processes at the peer address",
)
_KUBELET: Final = ("kube-probe/", "kube-lifecycle/")
_PROBE: Final = Refusal(
    Reason.NOT_FROM_HOST,
    "Host tokens are for processes on the node.",
    "a pod's probe or lifecycle hook may send this request through the kubelet; search the pods of this node for "
    "httpGet with host 127.0.0.1; your own client must send neither Connection: close nor Upgrade",
)
_NO_POD: Final = Refusal(
    Reason.BAD_PARAMETERS,
    "The header fields podns and podname are required, each once.",
    "check which process on the node sends this request; it must name the pod in podns and podname",
)
_NO_NAME: Final = Refusal(
    Reason.BAD_PARAMETERS,
    "The header fields podns and podname have to be names of a namespace and a pod.",
    "check which process on the node sends this request; podns or podname is not a valid Kubernetes name",
)
_NO_NODE_TOKENS: Final = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity is assigned to this pod.",
    "an exception applies to the pod, so its tokens are the node's own, which this path does not return; assign an "
    "identity to the pod, or send the request from the pod itself",
)
