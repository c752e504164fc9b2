"""Reads of resources, mostly VMs and scale sets: one request each, through a short pipeline of azure-core.

MIC reads each host once per interval, and most hosts have not changed. azure-mgmt-compute would send such a request
through 14 policies and build the model of the whole resource. A read needs a token and the identity part.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.pipeline import AsyncPipeline
from azure.core.pipeline.policies import UserAgentPolicy
from azure.core.rest import AsyncHttpResponse, HttpRequest
from azure.mgmt.compute import __version__ as compute_version
from azure.mgmt.core.policies import AsyncARMChallengeAuthenticationPolicy

from mic.azure.identities import HostIdentities, read_identities
from mic.azure.transport import ArmTransport
from podidentity.azure.resource_ids import Host, ScaleSet, resource_path


class ArmReads:
    """Reads through *transport*, which the caller closes. The token is requested again after a 401, and with the claims
    that a challenge demands."""

    def __init__(
        self,
        transport: ArmTransport,
        credential: AsyncTokenCredential,
        *,
        resource_manager: str,
        scope: str,
        user_agent: str,
        api_version: str,
    ) -> None:
        """*user_agent* is the first part of the User-Agent; the SDK's follows. *api_version*: of hosts. Blocks while it
        runs a program (uname)."""
        self._pipeline: AsyncPipeline[HttpRequest, AsyncHttpResponse] = AsyncPipeline(
            transport, [AsyncARMChallengeAuthenticationPolicy(credential, scope)]
        )
        self._base = resource_manager.rstrip("/")
        self._headers = {
            "Accept": "application/json",
            "User-Agent": UserAgentPolicy(
                sdk_moniker=f"mgmt-compute/{compute_version}", user_agent=user_agent
            ).user_agent,
        }
        self._host_query = {"api-version": api_version}

    async def get_host(self, host: Host) -> HostIdentities:
        """Return the identities of *host*. Raises as `get`, and ValueError for a response that is not a resource."""
        kind = "virtualMachineScaleSets" if isinstance(host, ScaleSet) else "virtualMachines"
        response = await self.get(resource_path(host, f"Microsoft.Compute/{kind}"), self._host_query)
        return read_identities(response.content, response.headers.get("ETag", ""))

    async def get(self, path: str, query: Mapping[str, str]) -> Any:
        """Return the response to a GET of *path*, which is quoted. Raises azure-core's exceptions, also for every
        status other than 200."""
        request = HttpRequest(
            "GET",
            f"{self._base}{path}?{urlencode(query, quote_via=quote)}",
            headers={**self._headers, "x-ms-client-request-id": str(uuid4())},
        )
        response: Any = (await self._pipeline.run(request)).http_response
        match response.status_code:
            case HTTPStatus.OK:
                return response
            case HTTPStatus.UNAUTHORIZED:
                # The error of a failed sign-in, so that the report names the credentials and not the host.
                raise ClientAuthenticationError(response=response)
            case _:
                raise HttpResponseError(response=response)
