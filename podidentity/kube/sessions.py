"""HTTP clients of the API server: aiohttp, and a small one for NMI (`podidentity.http_client`)."""

from collections.abc import Mapping
from typing import Protocol

from podidentity.kube.access import ClusterAccess
from podidentity.late_ca_certificates import import_aiohttp


class HttpResponse(Protocol):
    """A response whose head has arrived. Its owner reads it to the end or calls `close`."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """The fields. Readers use their names in lower case."""

    async def readany(self) -> bytes:
        """Return the next bytes of the body; none at its end. Raise HttpClientError if it is not complete."""

    def close(self) -> None:
        """Close the connection unless the response is complete."""


class Session(Protocol):
    """Connections to one API server."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        connect_seconds: float,
    ) -> HttpResponse:
        """Return the response once its head has arrived. Raise HttpClientError."""

    async def close(self) -> None:
        """Close all connections, including those of open responses."""


class OpenSession(Protocol):
    """Opens a session."""

    def __call__(
        self, access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool
    ) -> Session: ...


def aiohttp_session(access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool) -> Session:
    """Return a session of aiohttp."""
    import_aiohttp()
    from podidentity.kube import aiohttp_session as module  # noqa: PLC0415  aiohttp takes 10 MiB

    return module.AiohttpSession(access, module.connector(connections, reuse=reuse), headers)


def small_session(access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool) -> Session:
    """Return a session of the small client, or of aiohttp for a kubeconfig with a proxy."""
    if access.proxy is not None:
        return aiohttp_session(access, connections=connections, headers=headers, reuse=reuse)
    from podidentity.http_client.session import HttpSession  # noqa: PLC0415  only NMI's extra has httptools

    return HttpSession(
        connections=connections,
        headers=headers,
        tls=access.ssl,
        server_hostname=access.server_hostname,
        reuse=reuse,
    )
