"""The handler of paths that IMDS answers itself: the allowed methods and header fields. `passthrough` forwards."""

from functools import partial
from typing import Final, Protocol

from msgspec.structs import replace

from nmi.refusal import Reason, Refusal
from nmi.server.outcomes import Outcome, Outcomes, Work, header_refusal
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Request, Stream
from nmi.server.responses import PlainAnswer, StreamedAnswer, with_request_id
from nmi.server.target import CanonicalPath, Destination

READING: Final = ("GET", "HEAD")
PROXIED: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
WITHOUT_POD: Final = "addresses without a pod"
"""The account of all such addresses, which are charged together: a client may have any number of them."""
NEVER: Final = frozenset({"CONNECT", "TRACE"})
"""CONNECT opens a tunnel, TRACE returns header fields (RFC 9110 §9.3.6 and §9.3.8): refused for every target."""


class Forwarder(Protocol):
    """The interface of `nmi.server.passthrough.MetadataProxy`."""

    async def forward(
        self, charged: str, request: Request, destination: Destination, stream: Stream
    ) -> PlainAnswer | StreamedAnswer | Refusal: ...


class ProxiedPath:
    """The handler of forwarded requests."""

    def __init__(self, *, policy: ServerPolicy, proxy: Forwarder, outcomes: Outcomes) -> None:
        self._policy = policy
        self._proxy = proxy
        self._outcomes = outcomes

    def answer(self, call: Call, request: Request, destination: Destination) -> Outcome | Work:
        if call.path is CanonicalPath.INSTANCE and self._policy.block_instance_metadata:
            return self._outcomes.refused(call, _BLOCKED)
        methods = READING if call.path is CanonicalPath.INSTANCE else PROXIED
        if request.method not in methods and not self._policy.proxied_paths.everything:
            return self._outcomes.refused(call, OTHER_METHOD, allow=methods)
        refusal = header_refusal(request, self._policy)
        if refusal is not None:
            return self._outcomes.refused(call, refusal)
        return partial(self._proxied, call, request, destination)

    async def _proxied(self, call: Call, request: Request, destination: Destination, stream: Stream) -> Outcome:
        subject = self._outcomes.subject(call)
        charged = WITHOUT_POD if subject.entry is None else subject.entry.key
        answer = await self._proxy.forward(charged, request, destination, stream)
        if isinstance(answer, Refusal):
            return self._outcomes.refused(call, answer)
        if isinstance(answer, PlainAnswer):
            answer = replace(answer, headers=with_request_id(answer.status, answer.headers, call.request_id))
        outcome = self._outcomes.answered(subject, answer)
        if isinstance(answer, PlainAnswer) and answer.text is not None and answer.usage is not None:
            self._outcomes.make_metadata_ready(call, request, answer.text, answer.usage)
        return outcome


OTHER_METHOD: Final = Refusal(
    Reason.METHOD_NOT_ALLOWED,
    "This method is not allowed here.",
    "the method is not proxied; see which client sends it",
)
_BLOCKED: Final = Refusal(
    Reason.BLOCKED_PATH, "Instance metadata is blocked on this node.", "blocked by --block-instance-metadata"
)
