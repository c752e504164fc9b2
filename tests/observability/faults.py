"""Faults for the real programs, until the alerts' expressions are true for the scraped metrics.

Excluded: the waiting time of an alert (`for`), and faults that take minutes; promtool's cases test those.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.imds import TOKEN_PATH
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from tests.integration.identity_requests import NODE, ask, binding, identity, run_bound_pod, run_pod

CONNECTIONS_OF_ONE_POD = 8
"""A low limit for NMI."""
SECONDS = 60.0

Bring = Callable[[Sandbox, Sequence[ExecutionContext]], Awaitable[None]]


async def a_token_about_to_expire(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Azure issues a token of 200 seconds to a pod that requests it repeatedly."""
    sandbox.azure.imds.token_seconds = 200
    _, context = await run_bound_pod(sandbox, "short")
    for _ in range(2):
        assert (await ask(sandbox, context)).status == 200


async def an_identity_that_azure_refuses(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """MIC has no permission to assign it."""
    known = sandbox.azure.directory.add_identity(identity_id("forbidden"))
    sandbox.azure.arm.marked.unauthorized.add(known.resource_id.lower())
    await sandbox.cluster.apply(identity("forbidden", type=0, resourceID=known.resource_id, clientID=known.client_id))
    await sandbox.cluster.apply(binding("forbidden", "forbidden"))
    await run_pod(sandbox, "forbidden", {"aadpodidbinding": "forbidden"})


async def a_pod_with_too_many_connections(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """A pod opens a hundred connections and sends nothing."""
    source = contexts[0].environment["SANDBOX_SOURCE_ADDRESS"]
    port = int(sandbox.nmis[NODE].url.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)) for _ in range(100)]
    for _, writer in opened:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def an_imds_that_throttles(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Two pods request tokens that are not in the cache; IMDS answers the first calls with 429."""
    await _asked_amid(
        sandbox, contexts, ResponseFault(status=429, headers={"Retry-After": "1"}, times=7, path=TOKEN_PATH)
    )


async def an_imds_that_fails(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """The same with 500 for all calls."""
    await _asked_amid(sandbox, contexts, ResponseFault(status=500, times=math.inf, path=TOKEN_PATH))


FAULTS: dict[Bring, set[str]] = {
    a_token_about_to_expire: {"PodIdentityTokenExpiring"},
    an_identity_that_azure_refuses: {"PodIdentityIdentitiesQuarantined"},
    a_pod_with_too_many_connections: {"PodIdentityLimitsHit"},
    an_imds_that_throttles: {"PodIdentityIMDSThrottling"},
    an_imds_that_fails: {"PodIdentityIMDSUnavailable", "PodIdentityTokensUnavailable"},
}
"""Faults, and the alerts that must fire."""


async def noticed(
    sandbox: Sandbox, contexts: Sequence[ExecutionContext], true_now: Callable[[str], Awaitable[bool]]
) -> AsyncIterator[tuple[str, bool]]:
    """Yield for each alert whether its expression, evaluated by *true_now*, became true after its fault only."""
    for bring, names in FAULTS.items():
        for name in names:
            assert not await true_now(name), f"{name} was true before there was any trouble"
        await bring(sandbox, contexts)
        deadline = time.monotonic() + SECONDS
        for name in sorted(names):
            while not (seen := await true_now(name)) and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
            yield name, seen


async def _asked_amid(sandbox: Sandbox, contexts: Sequence[ExecutionContext], fault: ResponseFault) -> None:
    """Apply *mishap* while two pods request eight new tokens; it stays in force afterwards."""
    sandbox.azure.imds.faults.clear()
    sandbox.azure.imds.faults.add(fault)
    some = f"https://{fault.status}-"
    await asyncio.gather(
        *(ask(sandbox, context, resource=f"{some}{number}.example/") for context in contexts[:2] for number in range(4))
    )
