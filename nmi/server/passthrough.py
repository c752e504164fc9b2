"""Requests that IMDS answers itself: instance metadata, and whatever else the operator allows.

Nothing of the pod's request is forwarded as it came. Path and query are built anew from their parsed form, and of the
fields only those go along that IMDS is known to read; so no hop-by-hop field, no X-Forwarded-For and no framing of the
pod's reaches it. Redirects are not followed: they could lead anywhere that the node can reach. An address that no pod
is known at may ask, too, as with the reference: what IMDS tells here is about the machine, and identities are not part
of it.

Who pays: each call takes a slot of the governor, and holds it no longer than IMDS takes to send its answer, however
slowly the pod reads, since writing to a connection does not wait for it. What the pod has not taken is kept by its
connection: one answer at most, as nothing is read behind it, and for write_seconds at most. Calls of this kind have a
governor of their own in front of the common one, so that they leave part of it to tokens whatever happens. IMDS counts
instance metadata apart from tokens: its 429 is passed on and pauses nobody else.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol
from urllib.parse import quote, urlencode

import aiohttp
import yarl

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.parameters import parse_query
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import PlainAnswer, StreamedAnswer
from nmi.server.target import Destination
from nmi.tokens.governor import CongestedError, Governor

REQUEST_FIELDS: Final = ("metadata", "accept", "user-agent", "content-type", "x-ms-client-request-id")
ANSWER_FIELDS: Final = (
    "server",
    "date",
    "etag",
    "last-modified",
    "retry-after",
    "x-ms-request-id",
    "x-ms-client-request-id",
)
"""Content-Type and Content-Length come besides. A Location is left out: nobody is to follow it from inside the pod."""
CALLS_AT_ONCE: Final = 3
"""Of the five that IMDS takes; the others are for tokens."""
CALLS_PER_WINDOW: Final = 10
"""Of the twenty. IMDS answers about five a second itself."""
_BODILESS: Final = frozenset({"GET", "HEAD"})
"""RFC 9110 §9.3.1: a body means nothing with these."""


class CallLimiter(Protocol):
    """The limiter of calls to IMDS: `nmi.tokens.governor.Governor`."""

    def permit(self, pod_key: str) -> AbstractAsyncContextManager[object]:
        """Return a permit for one call. Entering it raises CongestedError if the queue is full."""


class Stream(Protocol):
    """Where an answer goes that is not held back until it is whole. Neither method waits for the peer to read."""

    def begin(self, answer: StreamedAnswer) -> None: ...
    def send(self, piece: bytes) -> None: ...


class MetadataProxy:
    """Forwards to one IMDS. The session is its caller's, who closes it after this."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, limiter: CallLimiter, policy: ServerPolicy
    ) -> None:
        """*base_url*: scheme, host and port of IMDS, without a path."""
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._limiter = limiter
        self._share = Governor(at_once=CALLS_AT_ONCE, per_window=CALLS_PER_WINDOW)
        self._policy = policy
        self._times = aiohttp.ClientTimeout(
            total=None, sock_connect=policy.proxy_connect_seconds, sock_read=policy.proxy_silence_seconds
        )

    def close(self) -> None:
        """Let no timer outlive its owner."""
        self._share.close()

    async def forward(
        self, charged: str, request: Request, destination: Destination, stream: Stream
    ) -> PlainAnswer | StreamedAnswer | Refusal:
        """What IMDS says to *request*, with *charged* paying for the call.

        A StreamedAnswer has been sent to *stream*, body and all. A Refusal after its begin() means that IMDS broke off:
        the connection has to end, so that nobody takes what was sent for the whole.
        """
        url = self._url(destination)
        if isinstance(url, Refusal):
            return url
        turn = False
        try:
            async with (
                asyncio.timeout(self._policy.proxy_seconds),
                self._share.permit(charged),
                self._limiter.permit(charged),
            ):
                turn = True
                return await self._ask(url, request, stream)
        except CongestedError as error:
            return _congested(error.retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not turn:
                return _congested(None)
            return _unavailable(
                f"IMDS did not answer, or not to the end: check {self._base_url} from the node ({type(error).__name__})"
            )

    def _url(self, destination: Destination) -> yarl.URL | Refusal:
        parameters = parse_query(destination.query)
        if isinstance(parameters, Refusal):
            return parameters
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return yarl.URL(f"{self._base_url}{destination.path}{query}", encoded=True)

    async def _ask(self, url: yarl.URL, request: Request, stream: Stream) -> PlainAnswer | StreamedAnswer | Refusal:
        async with self._session.request(
            request.method,
            url,
            headers=_sent(request),
            data=None if request.method in _BODILESS else request.body or None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            timeout=self._times,
        ) as answer:
            refusal = self._unusable(answer)
            if refusal is not None:
                answer.close()  # what is left of it is not worth a kept-alive connection
                return refusal
            length, bodiless = answer.content_length, request.method == "HEAD" or answer.status == 304
            if not bodiless and length is not None and length > self._policy.proxy_whole_bytes:
                return await _streamed(answer, length, stream)
            body = await self._whole(answer)
            if isinstance(body, Refusal):
                answer.close()
                return body
            return PlainAnswer(
                answer.status,
                body,
                content_type=_plain(answer.headers.get("Content-Type", "")),
                headers=_returned(answer.headers),
                length=length if bodiless else None,
            )

    def _unusable(self, answer: aiohttp.ClientResponse) -> Refusal | None:
        """Why *answer* cannot be passed on, as far as its head tells."""
        if not 200 <= answer.status <= 599:
            return _unavailable(f"IMDS answered with status {answer.status}: see what listens at {self._base_url}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            return _unavailable(f"IMDS answered in a coding nobody asked for: see what listens at {self._base_url}")
        length = answer.content_length
        return _too_large() if length is not None and length > self._policy.proxy_body_bytes else None

    async def _whole(self, answer: aiohttp.ClientResponse) -> bytes | Refusal:
        """All of the body. One of an untold length is held, too: it cannot be streamed to a client of HTTP/1.0."""
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > self._policy.proxy_body_bytes:
                return _too_large()
        return bytes(body)


async def _streamed(answer: aiohttp.ClientResponse, length: int, stream: Stream) -> StreamedAnswer:
    """Send *answer* on as it comes. aiohttp raises if it ends before *length* bytes, and reads none beyond."""
    content_type = _plain(answer.headers.get("Content-Type", ""))
    head = StreamedAnswer(answer.status, length, content_type, _returned(answer.headers))
    stream.begin(head)
    async for piece in answer.content.iter_any():
        stream.send(piece)
    return head


def _sent(request: Request) -> dict[str, str]:
    """The fields that go along, but for those that Connection names: they were meant for us (RFC 9110 §7.6.1)."""
    own = {each.strip(" \t").lower() for value in request.values("connection") for each in value.split(",")}
    headers = {name: _plain(value) for name in REQUEST_FIELDS if name not in own for value in request.values(name)[:1]}
    headers["accept-encoding"] = "identity"
    return headers


def _returned(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    own = {each.strip(" \t").lower() for each in headers.get("Connection", "").split(",")}
    return tuple((name.title(), _plain(headers[name])) for name in ANSWER_FIELDS if name in headers and name not in own)


def _plain(value: str) -> str:
    """A field's value as everybody reads it alike; empty if it is anything but printable ASCII."""
    return value if value.isascii() and value.isprintable() else ""


def _congested(retry_after: float | None) -> Refusal:
    return Refusal(
        Reason.OVERLOADED,
        "Too many requests to the metadata service are waiting on this node.",
        "see which pods ask for instance metadata so often",
        retry_after=retry_after,
        limit=Limit.GOVERNOR_QUEUE,
    )


def _too_large() -> Refusal:
    return _unavailable("IMDS answered with more than a pod may be sent: see nmi.server.policy", Limit.PROXIED_BYTES)


def _unavailable(detail: str, limit: Limit | None = None) -> Refusal:
    return Refusal(Reason.UPSTREAM_UNAVAILABLE, "The instance metadata service did not answer.", detail, limit=limit)
