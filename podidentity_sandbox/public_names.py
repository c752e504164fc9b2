"""Azure's services at their public names, as programs that know no other cloud request them from pods.

One address serves all of them over TLS and selects the service by the host of the request; `dns` resolves the names to
this address. Only pods with a network namespace use it. The certificates are from the sandbox's authority.
"""

import ssl
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import HttpService, json_response

HTTPS_PORT: Final = 443
DNS_PORT: Final = 53
ARM_NAMES: Final = ("management.azure.com", "management.core.windows.net")
AAD_NAMES: Final = ("login.microsoftonline.com", "login.microsoft.com", "login.windows.net", "sts.windows.net")
STORAGE_NAMES: Final = ("*.blob.core.windows.net", "*.dfs.core.windows.net")
"""A star is the name of any storage account."""


class PublicNames(HttpService):
    """A server for services that are started elsewhere. Each has the names for which it is responsible."""

    scheme = "https"

    def __init__(self, services: Mapping[tuple[str, ...], HttpService]) -> None:
        super().__init__()
        self._services = {name: service for names, service in services.items() for name in names}

    def knows(self, host: str) -> bool:
        """Return whether a service has this name, which is in lower case."""
        return self._service(host) is not None

    def context(self, authority: Authority) -> ssl.SSLContext:
        """Return the TLS context with a certificate for all names. Blocks while it makes a key."""
        return authority.server_context(self._services)

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        service = self._service(request.host.partition(":")[0].lower())
        if service is None:
            return json_response({"error": {"code": "UnknownHost", "message": "no such service"}}, status=421)
        return await service.respond(request)

    def _service(self, host: str) -> HttpService | None:
        found = self._services.get(host)
        if found is None:
            account, dot, rest = host.partition(".")
            found = self._services.get(f"*.{rest}") if account and dot else None
        return found
