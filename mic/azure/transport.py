"""Connections to Azure Resource Manager: azure-core's transport, with one lookup of the proxy for each host.

With aiohttp's `trust_env` each request would look up the proxy and a netrc file in two threads. This caused two thirds
of the process's wake-ups while MIC only compares hosts with Azure.
"""

from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from azure.core.pipeline.transport import AioHttpTransport
from typing_extensions import override

HOSTS_MAX: Final = 16
"""Hosts whose proxy is remembered: Resource Manager, and those that it names for polls of operations."""


class ArmTransport(AioHttpTransport):  # type: ignore[misc]  # azure-core declares this name without a type
    """Transport of a session that the caller owns. The proxy is that of the environment (HTTPS_PROXY, NO_PROXY)."""

    def __init__(self, session: aiohttp.ClientSession, *, timeout_seconds: float) -> None:
        """*timeout_seconds*: limit of connecting, and of each silence while a response is read."""
        super().__init__(
            session=session, session_owner=False, connection_timeout=timeout_seconds, read_timeout=timeout_seconds
        )
        self._proxy_of = lru_cache(maxsize=HOSTS_MAX)(environment_proxy)

    @override
    async def send(
        self,
        request: Any,
        *,
        stream: bool = False,
        proxies: MutableMapping[str, str] | None = None,
        **config: Any,
    ) -> Any:
        """Send *request* through its host's proxy, if any."""
        url = urlsplit(request.url)
        # Without user information, with which NO_PROXY would match no host.
        proxy = self._proxy_of(url.scheme, url.netloc.rpartition("@")[2])
        return await super().send(request, stream=stream, proxies=proxies, proxy=proxy, **config)


def environment_proxy(scheme: str, host: str) -> str | None:
    """Return the URL of the environment's proxy for *host* (with its port, if any); None if there is none."""
    return None if proxy_bypass(host) else getproxies().get(scheme)
