"""Requests that IMDS answers itself: instance metadata, and whatever else the operator allows.

Nothing of the pod's request is forwarded as it came. Path and query are built anew from their parsed form, and of the
fields only those go along that IMDS is known to read; so no hop-by-hop field, no X-Forwarded-For and no framing of the
pod's reaches it. Redirects are not followed: they could lead anywhere that the node can reach.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol
from urllib.parse import quote, urlencode

import aiohttp
import yarl

from nmi.refusal import Reason, Refusal
from nmi.server.parameters import parse_query
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import PlainAnswer, proxied
from nmi.server.target import Destination
from nmi.tokens.governor import CongestedError

log = logging.getLogger(__name__)

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


class Slots(Protocol):
    """Whose turn it is to call IMDS: `nmi.tokens.governor.Governor`."""

    def slot(self, pod_key: str) -> AbstractAsyncContextManager[object]:
        """Entering raises CongestedError when too many wait."""


class MetadataProxy:
    """Forwards to one IMDS. The session is its caller's, who closes it."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, slots: Slots, policy: ServerPolicy) -> None:
        """*base_url*: scheme, host and port of IMDS, without a path."""
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._slots = slots
        self._seconds = policy.proxy_seconds
        self._most = policy.proxy_body_bytes

    async def forward(self, charged: str, request: Request, destination: Destination) -> PlainAnswer | Refusal:
        """What IMDS says to *request*, with *charged* paying for the call."""
        url = self._url(destination)
        if isinstance(url, Refusal):
            return url
        try:
            async with asyncio.timeout(self._seconds), self._slots.slot(charged):
                return await self._ask(url, request)
        except CongestedError as error:
            return Refusal(
                Reason.OVERLOADED,
                "Too many requests to the metadata service are waiting on this node.",
                "see which pods ask for instance metadata so often",
                retry_after=error.retry_after,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _unavailable(f"IMDS did not answer: check {self._base_url} from the node ({type(error).__name__})")

    def _url(self, destination: Destination) -> yarl.URL | Refusal:
        parameters = parse_query(destination.query)
        if isinstance(parameters, Refusal):
            return parameters
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return yarl.URL(f"{self._base_url}{destination.path}{query}", encoded=True)

    async def _ask(self, url: yarl.URL, request: Request) -> PlainAnswer | Refusal:
        async with self._session.request(
            request.method,
            url,
            headers=_sent(request),
            data=request.body or None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        ) as answer:
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > self._most:
                    answer.close()  # what is left of it is not worth a kept-alive connection
                    return _unavailable("IMDS answered with more than a pod may be sent: see nmi.server.policy")
            return proxied(
                answer.status, bytes(body), _plain(answer.headers.get("Content-Type", "")), _returned(answer.headers)
            )


def _sent(request: Request) -> dict[str, str]:
    headers = {name: _plain(value) for name in REQUEST_FIELDS for value in request.values(name)[:1]}
    headers["accept-encoding"] = "identity"
    return headers


def _returned(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.title(), _plain(headers[name])) for name in ANSWER_FIELDS if name in headers)


def _plain(value: str) -> str:
    """A field's value as everybody reads it alike; empty if it is anything but printable ASCII."""
    return value if value.isascii() and value.isprintable() else ""


def _unavailable(detail: str) -> Refusal:
    return Refusal(Reason.UPSTREAM_UNAVAILABLE, "The instance metadata service did not answer.", detail)
