"""/host/token: the token of a pod for a process on the node, which names the pod.

Off by default. If enabled, every process on the host network may request tokens over the node's loopback address. A
redirected connection comes from a pod that imitates a process of the node, and is refused. The header fields podns and
podname protect against forged requests (a browser or a forwarder adds neither), so `Metadata` is not required, as in
the Go implementation. The kubelet runs on the host network too, and a pod's author chooses address, path and most
header fields of its probes: requests that look like a probe are refused (`_is_probe`). The handler looks up nothing
and reveals nothing about a pod before all of these checks have passed.
"""

import re
from functools import partial
from typing import Final

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decisions import Subject
from nmi.server.issued_token import name_of
from nmi.server.outcomes import Outcome, Work, header_refusal, subject_of
from nmi.server.request import Call, Origin, Request, Stream
from nmi.server.responses import host_token_parts, rendered
from nmi.server.target import Destination
from nmi.server.token_endpoint import GET_ONLY, NOT_GET, TokenEndpoint
from podidentity.azure.imds import RawAnswer

LOOPBACK: Final = "127.0.0.1"
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE: Final = re.compile(_LABEL)
"""An RFC 1123 label: the API server's rule for namespaces."""
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
"""An RFC 1123 subdomain: the API server's rule for pods."""


class HostPath(TokenEndpoint):
    """The handler of requests for host tokens."""

    def answer(self, origin: Origin, call: Call, request: Request, destination: Destination) -> Outcome | Work:
        if not self._policy.host_tokens:
            return self._outcomes.refused(call, _DISABLED)
        refusal = _caller_refusal(origin, call, request)
        if refusal is not None:
            return self._outcomes.refused(call, refusal)
        if request.method != "GET":
            return self._outcomes.refused(call, NOT_GET, allow=GET_ONLY)
        pod = header_refusal(request, self._policy) or _pod_in(request)
        if isinstance(pod, Refusal):
            return self._outcomes.refused(call, pod)
        return self._issue_later(call, destination.query, partial(self._issue, call, pod))

    async def _issue(self, call: Call, pod: tuple[str, str], asked: TokenRequest, _: Stream) -> Outcome:
        outcomes = self._outcomes
        subject = Subject(call, pod="/".join(pod))
        issued = await self._issuer.issue_for(*pod, asked)
        if isinstance(issued, RawAnswer):
            issued = _NO_NODE_TOKENS
        if isinstance(issued, Refusal):
            return outcomes.refused(call, issued, subject=subject)
        known = subject_of(call, issued.record)
        subject = Subject(call, pod=subject.pod, uid=issued.uid) if known.entry is None else known
        outcomes.decisions.granted(subject, asked, name_of(issued), issued.usage, issued.correlation)
        now_ns = self._now_ns()
        parts = host_token_parts(issued.token, issued.expires_ns, now_ns)
        return outcomes.answered(subject, rendered(parts, issued.expires_ns, now_ns))


def _caller_refusal(origin: Origin, call: Call, request: Request) -> Refusal | None:
    """Return the refusal of a caller that is not a process of the node, or is a probe."""
    if call.peer != LOOPBACK or origin.original_destination() is not None:
        return _NOT_FROM_HOST
    return _PROBE if _is_probe(request) else None


def _is_probe(request: Request) -> bool:
    """Return whether the kubelet may have sent the request for a pod's probe or lifecycle hook.

    Its User-Agent shows this unless the pod's author has overridden it. The author cannot remove a second sign: the
    kubelet disables keep-alive for probes, and Go's HTTP client then sends `Connection: close`, unless the request
    asks for an upgrade (Kubernetes: pkg/probe/http/http.go; Go: net/http/transport.go, persistConn.roundTrip). Only
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
    if _NAMESPACE.fullmatch(namespaces[0]) is None or _NAME.fullmatch(names[0]) is None:
        return _NO_NAME
    return namespaces[0], names[0]


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
