"""aiohttp as the client of the API server."""

from collections.abc import Mapping

import aiohttp
from yarl import URL

from podidentity.http_client.errors import ClientConnectorError, ConnectionTimeoutError, HttpClientError
from podidentity.kube.access import ClusterAccess

CHUNK = 256 * 1024
"""aiohttp pauses reading from the socket at twice this many buffered bytes."""


class AiohttpResponse:
    """One response."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def readany(self) -> bytes:
        """Return the next bytes of the body; none at its end."""
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError as error:
            raise _converted(error) from error

    def close(self) -> None:
        """Close the connection unless the response is complete."""
        self._response.release()


class AiohttpSession:
    """A session that uses *connector*, which it owns, and the access's proxy."""

    def __init__(
        self,
        access: ClusterAccess,
        connector: aiohttp.BaseConnector,
        headers: Mapping[str, str],
        *,
        request_class: type[aiohttp.ClientRequest] = aiohttp.ClientRequest,
    ) -> None:
        self._access = access
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=CHUNK,
            auto_decompress=False,
            trust_env=False,
            request_class=request_class,
        )

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, connect_seconds: float
    ) -> AiohttpResponse:
        """Return the response once its head has arrived."""
        try:
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                data=body,
                headers=headers,
                ssl=self._access.ssl or True,
                server_hostname=self._access.server_hostname,
                proxy=self._access.proxy,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
                # An API server never redirects; following a redirect would send the credentials to another host.
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
            raise _converted(error) from error
        return AiohttpResponse(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def connector(connections: int, *, reuse: bool) -> aiohttp.TCPConnector:
    """Return a connector. Without *reuse* each request has a new connection, and no address is cached."""
    if reuse:
        return aiohttp.TCPConnector(limit=connections)
    return aiohttp.TCPConnector(limit=connections, force_close=True, ttl_dns_cache=1)


def _converted(error: aiohttp.ClientError) -> Exception:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectionTimeoutError(str(error))
    if isinstance(error, TimeoutError):
        return error
    if isinstance(error, aiohttp.ClientHttpProxyError):  # its text contains the password in the proxy's URL
        return HttpClientError(f"the proxy responds with status {error.status} {error.message}")
    # aiohttp's message for a failed connection contains the repr of the SSL context.
    if isinstance(error, aiohttp.ClientConnectorError):
        return ClientConnectorError(error.os_error)
    return HttpClientError(str(error) or type(error).__name__)
