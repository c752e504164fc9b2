"""Requests to Azure about the identities of hosts. `mic.azure.compute.Compute` makes them."""

from typing import Protocol

from mic.azure.identities import Change, HostIdentities
from podidentity.azure.resource_ids import Host


class HostReader(Protocol):
    """Client that reads the identities of a host."""

    async def get(self, host: Host) -> HostIdentities:
        """Return the identities of the host; `GONE` if it does not exist. Raise AzureError."""


class HostClient(HostReader, Protocol):
    """Client that reads and changes the identities of a host."""

    async def update(self, host: Host, change: Change) -> HostIdentities:
        """Make the change and return the identities afterwards. Raise AzureError."""
