"""Concurrent reads of many VMs and scale sets, for a program that reads each of them once."""

import asyncio
from collections.abc import Sequence
from typing import Final

from mic.azure.host_client import HostReader
from mic.azure.identities import HostIdentities
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.azure.resource_ids import Host

PARALLEL: Final = 16
"""Concurrent GETs: they read a thousand VMs within seconds, without starving a running MIC."""
NO_USE: Final = frozenset({None, 400, 401})
"""Statuses of a refusal that is the same for every host: no token, or a sign-in or api-version that is not accepted."""


async def read_hosts(
    compute: HostReader, hosts: Sequence[Host], *, parallel: int = PARALLEL
) -> dict[str, HostIdentities | AzureError]:
    """Return Azure's response for each host, by key, or the failure. At most *parallel* requests run concurrently.

    Requests that would certainly fail in the same way (`NO_USE`, a throttled subscription, an unreachable Azure) are
    not made; the remaining hosts get the same failure.
    """
    responses: dict[str, HostIdentities | AzureError] = {}
    given_up: dict[str, AzureError] = {}
    slots = asyncio.Semaphore(parallel)

    async def read(host: Host) -> None:
        async with slots:
            # Only here, with a slot: the failure may have come during the wait for it.
            if error := given_up.get("") or given_up.get(host.subscription):
                responses[host.key] = error
                return
            try:
                responses[host.key] = await compute.get(host)
            except AzureError as error:
                responses[host.key] = error
                # After a whole round without a response the other requests would get none either.
                silent = len(responses) >= parallel and all(
                    isinstance(result, Unreachable) for result in responses.values()
                )
                if silent or (isinstance(error, Refused) and error.status in NO_USE):
                    given_up[""] = error
                elif isinstance(error, Throttled):
                    # Resource Manager throttles a subscription and a client, not a host.
                    given_up[host.subscription] = error

    async with asyncio.TaskGroup() as tasks:
        for host in hosts:
            tasks.create_task(read(host), name=f"read {host.text}")
    return responses
