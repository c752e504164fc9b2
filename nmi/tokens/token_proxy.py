"""The cluster's token proxy for AKS identity bindings: its address, its TLS server name and its trusted authority.

AKS's webhook sets four variables in NMI's environment, or the chart's values do. NMI trusts the given authority only,
not those of the machine: the proxy receives assertions. No request for the proxy passes HTTPS_PROXY, because the proxy
belongs to the cluster. Only `TokenProxy.target` reads a file, in a thread.
"""

import asyncio
import logging
import os
import re
import ssl
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from podidentity.azure.clouds import Endpoint, parse_endpoint
from podidentity.azure.errors import AzureError, Throttled, Unreachable
from podidentity.flags import quoted

log = logging.getLogger(__name__)

URL_VARIABLE: Final = "AZURE_KUBERNETES_TOKEN_PROXY"
SERVER_NAME_VARIABLE: Final = "AZURE_KUBERNETES_SNI_NAME"
CA_FILE_VARIABLE: Final = "AZURE_KUBERNETES_CA_FILE"
CA_DATA_VARIABLE: Final = "AZURE_KUBERNETES_CA_DATA"

CA_BYTES_MAX: Final = 1 << 20
"""A cluster has one or two authorities of a few KiB."""
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
    """The proxy of one cluster. Its authority is read with the first exchange, and again when the file changes."""

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

        A changed file gives a new context: connections that the former authority verified are not used again. While a
        changed file cannot be used, as in the middle of its rotation, the former authority remains trusted.
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
        """Read the authority if it has changed. Blocking. Raise OSError and ValueError (ssl.SSLError is an OSError)."""
        if self._file is None:
            if self._trust is None:
                self._trust = _context(self._data)
            return
        with self._file.open("rb") as file:
            version = _version_of(file.fileno())
            if version == self._version:
                return
            content = file.read(CA_BYTES_MAX + 1)
        if len(content) > CA_BYTES_MAX:
            raise ValueError(f"more than {CA_BYTES_MAX} bytes")
        self._trust = _context(content.decode("ascii", errors="replace").replace("\ufffd", "?"))
        self._version = version


def _version_of(descriptor: int) -> tuple[int, ...]:
    """Return values that change when the content does. A mounted volume replaces the file, so its inode changes."""
    found = os.fstat(descriptor)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(pem: str) -> ssl.SSLContext:
    if _BEGIN not in pem:
        raise ValueError("no PEM certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As for other private authorities (podidentity.azure.ca_bundle): many lack key identifiers.
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
