"""The input, result and proxy of a sign-in at Entra ID (or AD FS).

This module imports neither azure-identity nor aiohttp. `nmi.tokens.entra` sends the request; `nmi.tokens.entra_loader`
imports it when it is needed.
"""

from collections.abc import Callable
from typing import Final

from nmi.tokens.endpoints import ADFS
from nmi.tokens.token_proxy import ProxyTarget
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import Refused
from podidentity.hidden_fields import HidingStruct

CONNECTIONS: Final = 32
ATTEMPT_SECONDS: Final = 10.0
"""The timeout of one attempt, including the connection."""
CONNECT_SECONDS: Final = 5.0


class InvalidClient(Refused):
    """The application exists, but its credential is not, or no longer, valid (OAuth's invalid_client)."""


class SignIn(HidingStruct, frozen=True):
    """The input of one sign-in. Exactly one of *secret* and *assertion* is not empty."""

    hidden = frozenset({"secret", "assertion"})

    authority: Endpoint
    tenant: str
    client_id: str
    resource: str
    """As the pod's request contains it: a trailing slash is part of it, and `/.default` follows."""
    xms_cc: str = ""
    """Client capabilities, separated by commas."""
    secret: str = ""
    assertion: str = ""
    via: ProxyTarget | None = None
    """The token proxy that receives the request in place of the authority."""

    @property
    def recipient(self) -> Endpoint:
        """The server that the request is sent to."""
        return self.via.endpoint if self.via is not None else self.authority

    @property
    def token_url(self) -> str:
        """The token endpoint, which is also the audience of an assertion. AD FS has no version 2."""
        version = "" if self.tenant.lower() == ADFS else "v2.0/"
        return f"{self.recipient.url}/{self.tenant}/oauth2/{version}token"


class SignInResult(HidingStruct, frozen=True):
    """The response. *expires_on* is in Unix seconds, *expires_in* in seconds from the response's arrival."""

    hidden = frozenset({"access_token"})

    access_token: str
    expires_on: int
    expires_in: int
    ext_expires_in: str
    token_type: str


ProxyFor = Callable[[Endpoint], str]
"""Return the URL of the proxy for an endpoint, empty for none."""


def no_proxy(_endpoint: Endpoint) -> str:
    """Return no proxy for any endpoint."""
    return ""


def proxy_by(https_proxy: str, exceptions: str) -> ProxyFor:
    """Return the proxy function for the values of HTTPS_PROXY and NO_PROXY: a URL, and hosts without proxy.

    The hosts are separated by commas and include their subdomains. The proxy only tunnels: the secret is inside TLS,
    which ends at the endpoint.
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
