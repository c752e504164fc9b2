"""The four ways to use the identity, reported in the Go implementation's words, and the comparison of two tokens."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlencode

from podidentity_demo.advice import Asked, advice
from podidentity_demo.http_requests import AskError, get, presentable, token_by_sdk
from podidentity_demo.settings import Settings

TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105 - a path, no secret
METADATA_PATH: Final = "/metadata/instance?api-version=2017-08-01"
COMPUTE: Final = "2024-07-01"
_METADATA: Final = {"Metadata": "true"}


class StepError(Exception):
    """A step failed. The text states the result and the next action."""


Step = tuple[str, Callable[[], str]]
"""The words for a failure's line; what to do: it returns the line that says it worked ("": there is nothing to say)."""


class Demo:
    """The steps. Tokens live only while a step runs, and nothing that is returned or raised holds one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoint = f"{settings.metadata_service}{TOKEN_PATH}"
        self._unnamed = ""
        """The client id in the last token that was requested without naming one; empty if there is none or it is
        unknown.
        """

    @property
    def steps(self) -> list[Step]:
        """Return the steps in the Go implementation's order."""
        return [
            ("doARMOperations", self.count_machines),
            ("acquire a token using the MSI", self.token_by_msi),
            ("acquire a token, userAssignedID MSI", self.token_by_client_id),
            ("make GET on instance metadata", self.instance_metadata),
            ("get the same identity without its client id", self.compare),
        ]

    def count_machines(self) -> str:
        """Read the VMs of the resource group from Azure Resource Manager with a token of the identity."""
        settings = self._settings
        headers = {"Authorization": f"Bearer {self._token()}"}
        path = (
            f"/subscriptions/{quote(settings.subscription, '')}/resourceGroups/{quote(settings.resource_group, '')}"
            f"/providers/Microsoft.Compute/virtualMachines?api-version={COMPUTE}"
        )
        try:
            listed = get(
                settings.resource_manager,
                path,
                headers,
                source=settings.source_address,
                proxy=settings.proxy,
                tls=settings.tls,
            ).get("value")
        except AskError as failure:
            raise _error(failure, Asked.RESOURCE_MANAGER) from None
        if not isinstance(listed, list):
            raise StepError(f"{settings.resource_manager} answers without a list of VMs; see what answers there")
        return f"successfully doARMOperations vm count {len(listed)}"

    def token_by_msi(self) -> str:
        """Return a token without naming an identity, by Azure's own library."""
        self._unnamed = ""
        try:
            token = token_by_sdk(self._settings.resource, source=self._settings.source_address)
        except AskError as failure:
            raise _error(failure, Asked.TOKEN) from None
        self._unnamed = client_id_in(token)
        return f"successfully acquired a token using the MSI, msiEndpoint({self._endpoint})"

    def token_by_client_id(self) -> str:
        """Return a token of the identity with the client id."""
        self._token()
        return (
            f"successfully acquired a token, userAssignedID MSI, msiEndpoint({self._endpoint}) "
            f"clientID({self._settings.client_id})"
        )

    def instance_metadata(self) -> str:
        """Read the instance metadata of the VM."""
        server = self._settings.metadata_service
        try:
            found = get(server, METADATA_PATH, _METADATA, source=self._settings.source_address)
        except AskError as failure:
            raise _error(failure, Asked.METADATA) from None
        if "compute" not in found:
            raise StepError(f"{server} says nothing about the VM; see what answers there instead of Azure's IMDS")
        return "successfully made GET on instance metadata"

    def compare(self) -> str:
        """Return whether the token without a client id is the same identity's. Nothing is said where it is."""
        if self._unnamed and self._unnamed.lower() != self._settings.client_id.lower():
            raise StepError(
                f"the token without a client id is of {presentable(self._unnamed)}; bind only one AzureIdentity to "
                f"this pod, or let applications name the client id"
            )
        return ""

    def _token(self) -> str:
        """Return a token of the identity with the client id, by plain HTTP."""
        settings = self._settings
        wanted = {"api-version": "2018-02-01", "resource": settings.resource, "client_id": settings.client_id}
        path = f"{TOKEN_PATH}?{urlencode(wanted)}"
        try:
            token = get(settings.metadata_service, path, _METADATA, source=settings.source_address).get("access_token")
        except AskError as failure:
            raise _error(failure, Asked.TOKEN) from None
        if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token.strip()):
            raise StepError(f"{settings.metadata_service} answers without an access_token; see what answers there")
        return token


def _error(failure: AskError, asked: Asked) -> StepError:
    return StepError(f"{str(failure).rstrip('. ')}; {advice(asked, failure.status)}")


def client_id_in(token: str) -> str:
    """Return the client id in *token*, or "" if it is unreadable: only Azure must understand a token."""
    part = token.split(".")[1:2]
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4))) if part else None
    except ValueError:
        return ""
    found = claims.get("appid") if isinstance(claims, dict) else None
    return found if isinstance(found, str) else ""
