"""The requests that IMDS answers itself: instance metadata, and further paths that the operator allows.

`ProxiedPath` is their handler, which checks methods and header fields; `MetadataProxy` forwards them. The proxy
forwards no part of the pod's request unchanged. It builds path and query from their parsed form and sends only header
fields that IMDS reads, so that no hop-by-hop field, X-Forwarded-For or framing of the pod reaches IMDS. It does not
follow redirects, which could lead to any address that the node can reach. As in the Go implementation, an address
without a known pod may send such requests: the responses describe the machine and contain no identities.

Each call holds a permit of the governor until IMDS has sent its response, however slowly the pod reads, because
writing to a connection does not wait. The connection buffers the unread part: one response at most, because no further
request is read, and for write_seconds at most. These calls have a governor of their own, because IMDS counts them
separately from tokens: it allows a VM 5 requests per second, and for the managed identity category 20 per second and 5
concurrently (https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service, "Rate limiting"). Its 429 is
forwarded and pauses no other call. `metadata_cache` avoids most of these calls.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol, TypeVar
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.loop_detection import CAME_BACK, LOOP_STATUS
from nmi.server.outcomes import Outcome, Outcomes, Work, header_refusal
from nmi.server.parameters import parse_query
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Request, Stream
from nmi.server.responses import PlainResponse, StreamedResponse, with_request_id
from nmi.server.target import CanonicalPath, Destination
from nmi.tokens.fair_queue import Charged
from nmi.tokens.governor import CongestedError, Governor
from podidentity.http_client.connection import Response
from podidentity.http_client.errors import ClientConnectorError, ConnectionTimeoutError, HttpClientError
from podidentity.http_client.session import HttpSession

REQUEST_FIELDS: Final = ("metadata", "accept", "user-agent", "content-type", "x-ms-client-request-id")
RESPONSE_FIELDS: Final = (
    "server",
    "date",
    "etag",
    "last-modified",
    "retry-after",
    "x-ms-request-id",
    "x-ms-client-request-id",
)
"""In addition to Content-Type and Content-Length. Location is omitted: a pod must not follow it."""
QUERY_BYTES_MAX: Final = 256
"""IMDS's own queries have under 100 bytes. A longer one costs time, and memory as the key of a cached response."""
CALLS_AT_ONCE: Final = 5
CALLS_PER_WINDOW: Final = 5
BURST: Final = 2
"""Calls that may start together after an idle time. With more of them, the next pod's call could wait for the end of
the window, which is almost a second.
"""
ABSENT_SECONDS: Final = 5.0
"""The pause between two attempts to connect, as the Retry-After of the 503 states. Otherwise each attempt would hold a
permit for proxy_connect_seconds, and other requests would wait for one until proxy_seconds.
"""
READING: Final = ("GET", "HEAD")
PROXIED: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
WITHOUT_POD: Final = "addresses without a pod"
"""The account of all such addresses, which are charged together: a client may have any number of them."""
NEVER: Final = frozenset({"CONNECT", "TRACE"})
"""CONNECT opens a tunnel, TRACE returns header fields (RFC 9110 §9.3.6 and §9.3.8): refused for every target."""
_BODILESS: Final = frozenset({"GET", "HEAD"})
"""RFC 9110 §9.3.1: a body means nothing with these."""
C_contra = TypeVar("C_contra", contravariant=True)
"""What a call is charged to: one pod, or in front of the proxy itself also all pods that wait for it."""


class Forwarder(Protocol[C_contra]):
    """The interface of `MetadataProxy`, and of `nmi.server.metadata_cache` in front of it."""

    async def forward(
        self, charged: C_contra, request: Request, destination: Destination, stream: Stream
    ) -> PlainResponse | StreamedResponse | Refusal:
        """Return IMDS's response to *request*; its call is charged to *charged*.

        A StreamedResponse has been sent to *stream* with its body. A Refusal after begin() means that IMDS broke off
        the response: the connection must end, so that the client does not take the sent part for the whole.
        """


class ProxiedPath:
    """The handler of forwarded requests."""

    def __init__(self, *, policy: ServerPolicy, proxy: Forwarder[str], outcomes: Outcomes) -> None:
        self._policy = policy
        self._proxy = proxy
        self._outcomes = outcomes

    def handle(self, call: Call, request: Request, destination: Destination) -> Outcome | Work:
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
        response = await self._proxy.forward(charged, request, destination, stream)
        if isinstance(response, Refusal):
            return self._outcomes.refused(call, response)
        if isinstance(response, PlainResponse):
            response = replace(response, headers=with_request_id(response.status, response.headers, call.request_id))
        outcome = self._outcomes.served(subject, response)
        if isinstance(response, PlainResponse) and response.text is not None and response.usage is not None:
            self._outcomes.make_metadata_ready(call, request, response.text, response.usage)
        return outcome


class MetadataProxy:
    """Implements `Forwarder` for one IMDS. The caller owns the session and closes it after the proxy."""

    def __init__(
        self,
        session: HttpSession,
        base_url: str,
        policy: ServerPolicy,
        *,
        governor: Governor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*base_url*: scheme, host and port of IMDS, without a path. Without *governor* it has one of its own, with
        *clock*.
        """
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._governor = (
            Governor(at_once=CALLS_AT_ONCE, per_window=CALLS_PER_WINDOW, burst=BURST, clock=clock)
            if governor is None
            else governor
        )
        self._policy = policy
        self._clock = clock
        self._absent_until = 0.0

    def close(self) -> None:
        """Cancel the timer of the governor, also of one that the constructor received."""
        self._governor.close()

    async def forward(
        self, charged: Charged, request: Request, destination: Destination, stream: Stream
    ) -> PlainResponse | StreamedResponse | Refusal:
        """Return IMDS's response; see `Forwarder`."""
        target = forwarded_target(destination)
        if isinstance(target, Refusal):
            return target
        if absence := self._absence():
            return absence
        url = f"{self._base_url}{target}"
        permitted = False
        try:
            async with (
                asyncio.timeout(self._policy.proxy_seconds),
                self._governor.permit(charged),
            ):
                permitted = True
                return self._absence() or await self._response(url, request, stream)
        except CongestedError as error:
            return _congested(error.retry_after)
        except (HttpClientError, TimeoutError, OSError) as error:
            if isinstance(error, ClientConnectorError | ConnectionTimeoutError):
                self._absent_until = self._clock() + ABSENT_SECONDS
            # The time ended in the governor's queue, and IMDS has received nothing.
            if not permitted:
                return _congested(None)
            return _unavailable(
                f"no complete response from IMDS: {type(error).__name__}; check {self._base_url} from the node"
            )

    def _absence(self) -> Refusal | None:
        """Return the refusal of a request soon after a failed connection, which it would only repeat."""
        if self._clock() >= self._absent_until:
            return None
        return _unavailable(f"no connection to IMDS {ABSENT_SECONDS:g} s before; check {self._base_url} from the node")

    async def _response(self, url: str, request: Request, stream: Stream) -> PlainResponse | StreamedResponse | Refusal:
        response = await self._session.request(
            request.method,
            url,
            headers=_sent(request),
            body=None if request.method in _BODILESS else request.body or None,
            connect_seconds=self._policy.proxy_connect_seconds,
            silence_seconds=self._policy.proxy_silence_seconds,
        )
        try:
            refusal = self._unusable(response)
            if refusal is not None:
                return refusal
            length, bodiless = response.content_length, request.method == "HEAD" or response.status == 304
            if not bodiless and length is not None and length > self._policy.proxy_whole_bytes:
                return await _streamed(response, length, stream)
            body = await self._whole(response)
            if isinstance(body, Refusal):
                return body
            return PlainResponse(
                response.status,
                body,
                content_type=_plain(response.headers.get("content-type", "")),
                headers=_returned(response.headers),
                length=length if bodiless else None,
            )
        finally:
            response.close()  # reading the rest of an unused response costs more than a new connection

    def _unusable(self, response: Response) -> Refusal | None:
        """Return the refusal if the head of *response* shows that it cannot be forwarded."""
        if not 200 <= response.status <= 599:
            return _unavailable(f"IMDS returned status {response.status}; check what listens at {self._base_url}")
        if response.status == LOOP_STATUS:
            return Refusal(
                Reason.UPSTREAM_UNAVAILABLE, "NMI's request to the metadata service came back to NMI.", CAME_BACK
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            return _unavailable(f"IMDS used an unrequested content coding; check what listens at {self._base_url}")
        # A response with a large announced length is refused before any of its bytes are read.
        length = response.content_length
        return _too_large() if length is not None and length > self._policy.proxy_body_bytes else None

    async def _whole(self, response: Response) -> bytes | Refusal:
        """Return the whole body. A body of unknown length is buffered too: HTTP/1.0 clients cannot receive a stream."""
        body = bytearray()
        while piece := await response.readany():
            body += piece
            if len(body) > self._policy.proxy_body_bytes:
                return _too_large()
        return bytes(body)


def forwarded_target(destination: Destination) -> str | Refusal:
    """Return the normal form of path and query, which is forwarded; a Refusal of an ambiguous or too long query."""
    if len(destination.query) > QUERY_BYTES_MAX:
        return _LONG_QUERY
    parameters = parse_query(destination.query)
    if isinstance(parameters, Refusal):
        return parameters
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return f"{destination.path}{query}"


async def _streamed(response: Response, length: int, stream: Stream) -> StreamedResponse:
    """Forward *response* as it arrives. Reading it raises if it ends before *length* bytes, and yields no more."""
    content_type = _plain(response.headers.get("content-type", ""))
    head = StreamedResponse(response.status, length, content_type, _returned(response.headers))
    stream.begin(head)
    while piece := await response.readany():
        stream.send(piece)
    return head


def _sent(request: Request) -> dict[str, str]:
    """Return the forwarded fields without those that Connection names: they are for NMI (RFC 9110 §7.6.1)."""
    own = {option.strip(" \t").lower() for value in request.values("connection") for option in value.split(",")}
    headers = {name: _plain(value) for name in REQUEST_FIELDS if name not in own for value in request.values(name)[:1]}
    # The pod's Accept-Encoding is not forwarded, and the pod may not understand a coding.
    headers["accept-encoding"] = "identity"
    return headers


def _returned(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    own = {option.strip(" \t").lower() for option in headers.get("connection", "").split(",")}
    names = [name for name in RESPONSE_FIELDS if name in headers and name not in own]
    return tuple((name.title(), _plain(headers[name])) for name in names)


def _plain(value: str) -> str:
    """Return a field's value if it is printable ASCII, which all readers understand in the same way; else nothing."""
    return value if value.isascii() and value.isprintable() else ""


OTHER_METHOD: Final = Refusal(
    Reason.METHOD_NOT_ALLOWED,
    "This method is not allowed here.",
    "the method is not proxied; see which client sends it",
)
_BLOCKED: Final = Refusal(
    Reason.BLOCKED_PATH, "Instance metadata is blocked on this node.", "blocked by --block-instance-metadata"
)
_LONG_QUERY: Final = Refusal(
    Reason.BAD_PARAMETERS,
    "The query is too long.",
    f"the query has more than {QUERY_BYTES_MAX} bytes; see which client sends it",
    limit=Limit.TARGET_BYTES,
)


def _congested(retry_after: float | None) -> Refusal:
    return Refusal(
        Reason.OVERLOADED,
        "Too many requests to the metadata service are waiting on this node.",
        "check which pods request instance metadata frequently",
        retry_after=retry_after,
        limit=Limit.GOVERNOR_QUEUE,
    )


def _too_large() -> Refusal:
    return _unavailable("IMDS's response is larger than the limit for pods; see nmi.server.policy", Limit.PROXIED_BYTES)


def _unavailable(detail: str, limit: Limit | None = None) -> Refusal:
    return Refusal(Reason.UPSTREAM_UNAVAILABLE, "The instance metadata service did not answer.", detail, limit=limit)
