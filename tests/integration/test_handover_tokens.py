"""Test that an upgrade of NMI causes no calls to IMDS and Entra ID for tokens that the former NMI has cached."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from tests.integration.handovers import connector, end, logged, sandboxed
from tests.integration.identity_requests import NODE, binding, identity, metrics, run_bound_pod, run_pod, secret
from tests.integration.test_nmi_drains import PATH

MANAGED = 5
PRINCIPALS = 2


async def pods(sandbox: Sandbox) -> list[ExecutionContext]:
    """Return pods, each with an identity of its own: MANAGED user-assigned ones, and PRINCIPALS with a Secret."""
    found = [(await run_bound_pod(sandbox, f"managed-{number}"))[1] for number in range(MANAGED)]
    for number in range(PRINCIPALS):
        name = f"principal-{number}"
        principal = sandbox.azure.directory.add_principal()
        await sandbox.cluster.apply(secret(name, {"clientSecret": principal.secret.encode()}))
        await sandbox.cluster.apply(
            identity(
                name,
                type=1,
                clientID=principal.client_id,
                tenantID=principal.tenant_id,
                clientPassword={"name": name, "namespace": "default"},
            )
        )
        await sandbox.cluster.apply(binding(name, name))
        found.append(await run_pod(sandbox, name, {"aadpodidbinding": name}))
    return found


def tokens(sandbox: Sandbox, contexts: list[ExecutionContext]) -> Iterator[str]:
    for each in contexts:
        connection = connector(sandbox, each.environment["SANDBOX_SOURCE_ADDRESS"])()
        connection.request("GET", PATH, headers={"Metadata": "true"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        yield json.loads(body)["access_token"]
        connection.close()


async def test_upstream_calls_of_an_upgrade_with_and_without_passed_tokens(
    directory: Path,
) -> None:
    async with sandboxed(directory) as sandbox:
        contexts = await pods(sandbox)

        async def calls_for_a_token_each() -> tuple[list[str], int, int]:
            """Return the tokens, and the number of calls to IMDS and to Entra ID for them."""
            imds, aad = len(sandbox.azure.imds.token_calls), len(sandbox.azure.aad.calls)
            found = await asyncio.to_thread(lambda: list(tokens(sandbox, contexts)))
            return found, len(sandbox.azure.imds.token_calls) - imds, len(sandbox.azure.aad.calls) - aad

        before, imds, aad = await calls_for_a_token_each()
        assert (imds, aad) == (MANAGED, PRINCIPALS), "a cold start"

        former = sandbox.nmis[NODE].program
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        assert await end(former) == 0
        after, imds, aad = await calls_for_a_token_each()
        assert after == before
        assert (imds, aad) == (0, 0), "with passed tokens"
        counted = await asyncio.to_thread(metrics, sandbox.nmis[NODE].metrics_port)
        assert f'aadpodidentity_nmi_handover_tokens_total{{result="received"}} {MANAGED + PRINCIPALS}.0' in counted
        assert 'aadpodidentity_nmi_handover_tokens_total{result="refused"} 0.0' in counted

        await end(sandbox.nmis[NODE].program, signal.SIGKILL)
        await sandbox.start_nmi(NODE)
        await sandbox.nmi_active(NODE)
        _, imds, aad = await calls_for_a_token_each()
        assert (imds, aad) == (MANAGED, PRINCIPALS), "without passed tokens"
        log = (sandbox.folder / f"nmi-{NODE}.log").read_text()
        assert not any(each in log for each in before)
