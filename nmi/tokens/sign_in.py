"""One token from Entra ID (or AD FS), asked for by azure-identity over a session that NMI owns.

What is here is what needs nothing of azure-identity: the values, the session, the way to a proxy. `nmi.tokens.entra`
asks, and `nmi.tokens.entra_loader` brings that in once it is needed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from nmi.tokens.endpoints import ADFS
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import Refused

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

CONNECTIONS: Final = 16
ANSWER_MAX: Final = 64 * 1024
"""Bytes. A token with every optional claim and group stays under 16 KiB."""
ATTEMPT_SECONDS: Final = 10.0
"""For one try, connecting included."""
CONNECT_SECONDS: Final = 5.0


class InvalidClient(Refused):
    """The application exists, and what it proved itself with is not, or no longer, its own (OAuth's invalid_client)."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """What one token is asked for with. Exactly one of *secret* and *assertion* is not empty."""

    authority: Endpoint
    tenant: str
    client_id: str
    resource: str
    """As the pod spelled it: a slash at its end belongs to it, and `/.default` comes after."""
    xms_cc: str = ""
    """Client capabilities, by comma."""
    secret: str = field(default="", repr=False)
    assertion: str = field(default="", repr=False)

    @property
    def token_url(self) -> str:
        """Where the token is asked for, which is also the audience of an assertion. AD FS has no version 2."""
        version = "" if self.tenant.lower() == ADFS else "v2.0/"
        return f"{self.authority.url}/{self.tenant}/oauth2/{version}token"


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The answer. *expires_on* is in Unix seconds, *expires_in* in seconds from the answer's arrival."""

    access_token: str = field(repr=False)
    expires_on: int
    expires_in: int
    ext_expires_in: str
    token_type: str


ProxyFor = Callable[[Endpoint], str]
"""The proxy by which an endpoint is reached, empty for none."""


def no_proxy(_endpoint: Endpoint) -> str:
    """Every endpoint is reached directly."""
    return ""


def proxy_by(https_proxy: str, exceptions: str) -> ProxyFor:
    """As HTTPS_PROXY and NO_PROXY say: a proxy's URL, and the hosts it is not for (with their subdomains), by comma.

    A proxy is asked for a tunnel: the secret passes it inside TLS, which ends at the endpoint.
    """
    if not https_proxy:
        return no_proxy
    url = https_proxy if "://" in https_proxy else f"http://{https_proxy}"
    direct = [part.strip().lower().lstrip("*").lstrip(".") for part in exceptions.split(",") if part.strip()]

    def chosen(endpoint: Endpoint) -> str:
        names = (endpoint.host, f"{endpoint.host}:{endpoint.port}")
        reached = any(part in {"", *names} or any(name.endswith(f".{part}") for name in names) for part in direct)
        return "" if reached else url

    return chosen


class BoundedResponse(aiohttp.ClientResponse):
    """An answer whose body is not read past ANSWER_MAX."""

    @override
    async def read(self) -> bytes:
        """The whole body. Raises ClientPayloadError for one that is too long."""
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if len(body) > ANSWER_MAX:
                self.close()
                raise aiohttp.ClientPayloadError(f"an answer of more than {ANSWER_MAX} bytes")
        return bytes(body)


def new_session(user_agent: str, connector: aiohttp.TCPConnector | None = None) -> aiohttp.ClientSession:
    """A session for sign-ins alone. It belongs to the caller, who closes it; the environment means nothing to it.

    *connector* is for who trusts another authority than the machine does, and becomes the session's.
    """
    return aiohttp.ClientSession(
        connector=connector or aiohttp.TCPConnector(limit=CONNECTIONS),
        response_class=BoundedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"},
        trust_env=False,
    )
