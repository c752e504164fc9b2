"""/host/token: a process on the node asks for the token of a pod that it names.

Off by default. Where it is on, every process on the host network may ask, over the node's own loopback; that the
connection was not redirected is what tells it from a pod that has found a way to look like one. The header fields podns
and podname are the shield against forgery here (a browser or a forwarder adds neither), so Metadata is not demanded,
as by the reference. The kubelet is such a process, and a pod's author chooses address, path and most header fields of
its probes: what shows a probe is refused (`_is_probe`). Nothing is looked up, and nothing about any pod is said, before
all of this holds.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.call import Call, Origin
from nmi.server.decisions import Subject
from nmi.server.granting import TokenIssuer, name_of
from nmi.server.outcomes import Outcome, Outcomes, Pending, misheaded, subject_of
from nmi.server.parameters import token_request
from nmi.server.passthrough import Stream
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import host_token_parts, timeless
from nmi.server.target import Destination, Route
from nmi.server.token_path import GET_ONLY, NOT_GET
from podidentity.azure.imds import RawAnswer

LOOPBACK: Final = "127.0.0.1"
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE: Final = re.compile(_LABEL)
"""RFC 1123 label, as the API server has it for namespaces."""
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
"""RFC 1123 subdomain, as the API server has it for pods."""


class HostPath:
    """Answers requests for host tokens."""

    def __init__(
        self, *, policy: ServerPolicy, issuer: TokenIssuer, outcomes: Outcomes, now_ns: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._issuer = issuer
        self._outcomes = outcomes
        self._now_ns = now_ns

    def answer(self, origin: Origin, call: Call, request: Request, destination: Destination) -> Outcome | Pending:
        if not self._policy.host_tokens:
            return self._outcomes.refused(call, _SWITCHED_OFF, Route.HOST_TOKEN)
        stranger = _stranger(origin, call, request)
        if stranger is not None:
            return self._outcomes.refused(call, stranger, Route.HOST_TOKEN)
        if request.method != "GET":
            return self._outcomes.refused(call, NOT_GET, Route.HOST_TOKEN, allow=GET_ONLY)
        pod = misheaded(request, self._policy) or _named(request)
        if isinstance(pod, Refusal):
            return self._outcomes.refused(call, pod, Route.HOST_TOKEN)
        asked = token_request(destination.query)
        if isinstance(asked, Refusal):
            return self._outcomes.refused(call, asked, Route.HOST_TOKEN)
        return Pending(call, Route.HOST_TOKEN, asked, partial(self._issued, call, pod, asked))

    async def _issued(self, call: Call, pod: tuple[str, str], asked: TokenRequest, _: Stream) -> Outcome:
        outcomes, route = self._outcomes, Route.HOST_TOKEN
        subject = Subject(call, pod="/".join(pod))
        granted = await self._issuer.issue_for(*pod, asked)
        if isinstance(granted, RawAnswer):
            granted = _NEVER_THE_NODES
        if isinstance(granted, Refusal):
            return outcomes.refused(call, granted, route, asked=asked, subject=subject)
        known = subject_of(call, granted.record)
        subject = Subject(call, pod=subject.pod, uid=granted.uid) if known.entry is None else known
        outcomes.decisions.granted(subject, asked, name_of(granted), granted.usage, granted.correlation)
        now_ns = self._now_ns()
        parts = host_token_parts(granted.token, granted.expires_ns, now_ns)
        return outcomes.answered(subject, timeless(parts, granted.expires_ns, now_ns), route, asked)


def _stranger(origin: Origin, call: Call, request: Request) -> Refusal | None:
    """Why the one who asks is no process of the node that may."""
    if call.peer != LOOPBACK or origin.original_destination() is not None:
        return _NOT_FROM_HOST
    return _PROBE if _is_probe(request) else None


def _is_probe(request: Request) -> bool:
    """Whether the kubelet may have sent it for a pod's probe or lifecycle hook.

    By its User-Agent, unless the pod's author has overridden that; and by what the author cannot remove: for a probe
    the kubelet switches keep-alive off, and Go's HTTP client then sends `Connection: close`, unless the request asks
    for an upgrade (Kubernetes: pkg/probe/http/http.go; Go: net/http/transport.go, persistConn.roundTrip). A lifecycle
    hook is recognised by its User-Agent alone.
    """
    if any(agent.lower().startswith(_KUBELET) for agent in request.values("user-agent")):
        return True
    options = {option.strip().lower() for value in request.values("connection") for option in value.split(",")}
    return not options.isdisjoint({"close", "upgrade"}) or bool(request.values("upgrade"))


def _named(request: Request) -> tuple[str, str] | Refusal:
    """Namespace and name of the pod that *request* is about."""
    namespaces, names = request.values("podns"), request.values("podname")
    if len(namespaces) != 1 or len(names) != 1:
        return _NO_POD
    if _NAMESPACE.fullmatch(namespaces[0]) is None or _NAME.fullmatch(names[0]) is None:
        return _NO_NAME
    return namespaces[0], names[0]


_SWITCHED_OFF: Final = Refusal(
    Reason.UNKNOWN_PATH, "There is nothing here.", "host tokens are switched off: --host-token-types names no type"
)
_NOT_FROM_HOST: Final = Refusal(
    Reason.NOT_FROM_HOST,
    "Host tokens are for processes on the node.",
    "a pod asks for other pods' tokens at /host/token: see what runs at the peer",
)
_KUBELET: Final = ("kube-probe/", "kube-lifecycle/")
_PROBE: Final = Refusal(
    Reason.NOT_FROM_HOST,
    "Host tokens are for processes on the node.",
    "a probe or lifecycle hook of a pod may ask /host/token by the kubelet: look for httpGet with host 127.0.0.1 in "
    "the pods of this node; a client of yours must send neither Connection: close nor Upgrade",
)
_NO_POD: Final = Refusal(
    Reason.BAD_PARAMETERS,
    "The header fields podns and podname are required, each once.",
    "see which process on the node asks: it has to name the pod in podns and podname",
)
_NO_NAME: Final = Refusal(
    Reason.BAD_PARAMETERS,
    "The header fields podns and podname have to be names of a namespace and a pod.",
    "see which process on the node asks: podns or podname is no name that an object of Kubernetes can have",
)
_NEVER_THE_NODES: Final = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity is assigned to this pod.",
    "an exception covers the pod, so its tokens are the node's own, which are not given out by this way: assign an "
    "identity to the pod, or ask from the pod itself",
)
