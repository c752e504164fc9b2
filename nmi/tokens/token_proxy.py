"""The cluster's token proxy for AKS identity bindings, and the choice between it and Entra ID (Exchanges).

AKS's webhook sets four variables in NMI's environment, or the chart's values do: the proxy's address, its TLS server
name, and its CA certificate as a file or as text. NMI trusts this CA certificate only, not those of the machine: the
proxy receives assertions. No request for the proxy passes HTTPS_PROXY, because the proxy belongs to the cluster. Only
`TokenProxy.target` reads a file, in a thread.
"""

import asyncio
import logging
import os
import re
import ssl
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from nmi.tokens.source import PolicyError
from podidentity.azure.clouds import Endpoint, parse_endpoint
from podidentity.azure.errors import AzureError, Throttled, Unreachable
from podidentity.azure.federation import Exchange
from podidentity.flags import quoted
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity

log = logging.getLogger(__name__)

URL_VARIABLE: Final = "AZURE_KUBERNETES_TOKEN_PROXY"
SERVER_NAME_VARIABLE: Final = "AZURE_KUBERNETES_SNI_NAME"
CA_FILE_VARIABLE: Final = "AZURE_KUBERNETES_CA_FILE"
CA_DATA_VARIABLE: Final = "AZURE_KUBERNETES_CA_DATA"

CA_BYTES_MAX: Final = 1 << 20
"""A cluster has one or two CA certificates of a few KiB."""
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_SERVER_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*",
    re.IGNORECASE | re.ASCII,
)


class TokenProxyError(Exception):
    """The token proxy's configuration is missing or invalid. The message is one line with the next action."""


class ProxyUnreachable(Unreachable):
    """The token proxy did not respond, or is not the one that the variables describe. Another attempt may succeed."""


class ProxyFailed(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """The token proxy responded without a token (5xx, or no usable response). Another attempt may succeed."""


class ProxyThrottled(Throttled):
    """The token proxy limits the requests (429): wait *retry_after*."""


class ProxyTarget(msgspec.Struct, frozen=True):
    """The destination of one exchange."""

    endpoint: Endpoint
    server_name: str
    """The name that the proxy's certificate must have, which TLS also sends (SNI)."""
    trust: ssl.SSLContext


class ProxySettings(NamedTuple):
    """The four values, as given; empty if not set."""

    url: str = ""
    server_name: str = ""
    ca_file: str = ""
    ca_data: str = ""


class TokenProxy:
    """The proxy of one cluster. Its CA certificate is read with the first exchange, and again when the file changes."""

    def __init__(self, settings: ProxySettings) -> None:
        """Raise TokenProxyError."""
        endpoint = parse_endpoint(settings.url, ipv6=True)
        if endpoint is None:
            raise TokenProxyError(_wrong_url(settings.url))
        if settings.server_name and not _SERVER_NAME.fullmatch(settings.server_name):
            raise TokenProxyError(
                f"{SERVER_NAME_VARIABLE} is {quoted(settings.server_name)}: set it to the DNS name in the proxy's "
                f"certificate"
            )
        if bool(settings.ca_file) == bool(settings.ca_data):
            both = "are both set" if settings.ca_file else "are both missing"
            raise TokenProxyError(
                f"{CA_FILE_VARIABLE} and {CA_DATA_VARIABLE} {both}: set exactly one of them to the authority of the "
                f"token proxy"
            )
        self.endpoint = endpoint
        self._server_name = settings.server_name or endpoint.host
        self._file = Path(settings.ca_file) if settings.ca_file else None
        self._data = settings.ca_data
        self._version: tuple[int, ...] = ()
        self._trust: ssl.SSLContext | None = None
        self._problem = ""
        self._lock = asyncio.Lock()

    async def target(self) -> ProxyTarget:
        """Return the destination, with the present content of the CA file. Raise ProxyUnreachable if there is none yet.

        A changed file gives a new context: connections that the former certificate verified are not used again. While a
        changed file cannot be used, as in the middle of its rotation, the former certificate remains trusted.
        """
        async with self._lock:
            try:
                await asyncio.to_thread(self._refresh)
            except (OSError, ValueError) as error:
                problem = _problem(self._file, error)
                if self._trust is None:
                    raise ProxyUnreachable(problem, code="token_proxy_ca") from None
                if problem != self._problem:
                    self._problem = problem
                    log.warning(
                        "the changed authority of the token proxy cannot be used, the former one remains trusted; "
                        "correct the file",
                        extra={"error": problem},
                    )
            else:
                self._problem = ""
        if self._trust is None:
            raise RuntimeError("the authority was read without a result")
        return ProxyTarget(self.endpoint, self._server_name, self._trust)

    def _refresh(self) -> None:
        """Read the CA certificate if it has changed. Blocking.

        Raise OSError and ValueError (ssl.SSLError is an OSError).
        """
        if self._file is None:
            if self._trust is None:
                self._trust = _context(self._data)
            return
        with self._file.open("rb") as file:
            version = _version_of(file.fileno())
            # A new context opens new connections, so it is created only for a new content.
            if version == self._version:
                return
            # One byte more than allowed shows that the file is too large without reading it all.
            content = file.read(CA_BYTES_MAX + 1)
        if len(content) > CA_BYTES_MAX:
            raise ValueError(f"more than {CA_BYTES_MAX} bytes")
        self._trust = _context(content.decode("ascii", errors="replace").replace("\ufffd", "?"))
        self._version = version


class Exchanges(msgspec.Struct, frozen=True):
    """The choice of a node between the two exchanges of a federated identity; it never falls back to the other one.

    Permission to create an AzureIdentity must not choose the exchange unless the operator allows it: the admission
    policy of the chart then allows both audiences.
    """

    default: Exchange = Exchange.DIRECT
    by_annotation: bool = False
    """Whether an annotation of the AzureIdentity may choose the other exchange."""
    proxy: TokenProxy | None = None
    """None without a usable configuration; *proxy_problem* is the reason."""
    proxy_problem: str = ""

    def of(self, identity: AzureIdentity) -> Exchange:
        """Return the exchange of *identity*. Raise PolicyError if it may not have it on this node."""
        chosen = self.choose(identity)
        if chosen is Exchange.IDENTITY_BINDINGS and self.proxy is None:
            raise PolicyError(
                "This identity uses AKS identity bindings, and this node has no usable token proxy.",
                f"no token of AzureIdentity {'/'.join(identity.key)} was requested: {self.proxy_problem}",
            )
        return chosen

    def choose(self, identity: AzureIdentity) -> Exchange:
        """Return the exchange of *identity*, also if the node has no usable token proxy. Raise PolicyError for an
        annotation that is invalid or not allowed.
        """
        name, text = "/".join(identity.key), identity.metadata.annotation(EXCHANGE_ANNOTATION)
        if text and text not in set(Exchange):
            raise PolicyError(
                "The annotation of this identity's AzureIdentity for the exchange is invalid; its owner must correct "
                "it.",
                f"AzureIdentity {name} has the annotation {EXCHANGE_ANNOTATION} with {quoted(text)}: write direct or "
                f"identityBindings, or remove it",
            )
        chosen = Exchange(text) if text else self.default
        # The annotation's author would choose which audience and which server a pod's assertion is for.
        if chosen is not self.default and not self.by_annotation:
            raise PolicyError(
                "This identity's AzureIdentity chooses an exchange that this node does not allow "
                "(--federated-exchange-annotation).",
                f"AzureIdentity {name} chooses {chosen} by the annotation {EXCHANGE_ANNOTATION}, and this node uses "
                f"{self.default}: remove the annotation, or set federated.exchangeAnnotation in the chart's values",
            )
        return chosen


DIRECT_ONLY: Final = Exchanges()
"""The exchange without any setting."""


def _version_of(descriptor: int) -> tuple[int, ...]:
    """Return values that change when the content does. A mounted volume replaces the file, so its inode changes."""
    status = os.fstat(descriptor)
    return status.st_mtime_ns, status.st_size, status.st_ino


def _context(pem: str) -> ssl.SSLContext:
    if _BEGIN not in pem:
        raise ValueError("no PEM certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As for other private CA certificates (podidentity.azure.ca_bundle): many lack key identifiers.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=pem)
    return context


def _problem(file: Path | None, error: Exception) -> str:
    named = f"{CA_FILE_VARIABLE} ({file})" if file is not None else CA_DATA_VARIABLE
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot use {named}: {cause}; set it to the PEM certificate of the token proxy's authority"


def _wrong_url(url: str) -> str:
    if not url:
        return (
            f"{URL_VARIABLE} is missing in NMI's environment: AKS's webhook sets it in pods with the label "
            f"azure.workload.identity/use and the annotation azure.workload.identity/use-identity-binding, which the "
            f"chart sets for federated.exchange=identityBindings; restart NMI's pods if the webhook was installed "
            f"later, or set the chart's value federated.identityBindings.tokenProxy"
        )
    return (
        f"{URL_VARIABLE} is not a valid address: write it as https://host:port/path, without user, query and fragment, "
        f"and an IPv6 address as [address], without a zone"
    )
