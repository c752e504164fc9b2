"""Requests to Azure, most about the identities of hosts. `mic.azure.compute.Compute` makes them."""

from collections.abc import Mapping
from typing import Protocol

from mic.azure.identities import Change, HostIdentities
from podidentity.azure.resource_ids import Host


class HostReader(Protocol):
    """Client that reads the identities of a host."""

    async def get(self, host: Host) -> HostIdentities:
        """Return the identities of the host; `GONE` if it does not exist. Raise AzureError."""


class ResourceReader(Protocol):
    """Client that reads any resource."""

    async def read(self, path: str, query: Mapping[str, str]) -> bytes:
        """Return the body of the response to a GET of *path*, which is quoted. Raise AzureError."""


class AzureReader(HostReader, ResourceReader, Protocol):
    """Client that reads the identities of a host, and any resource."""


class HostClient(HostReader, Protocol):
    """Client that reads and changes the identities of a host."""

    async def update(self, host: Host, change: Change) -> HostIdentities:
        """Make the change and return the identities afterwards. Raise AzureError."""
