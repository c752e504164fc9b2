"""The demo in a pod, with the real NMI, and the real MIC, which assigns the identity while the demo waits."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping

import pytest

from podidentity_sandbox.azure import RESOURCE_GROUP, SUBSCRIPTION, identity_id
from podidentity_sandbox.command_lines import ProgramPorts
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import NODE, binding, identity, run_pod

pytestmark = pytest.mark.programs


@pytest.fixture(params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(namespaces=request.param == "namespaces", environment=os.environ)) as running:
        yield running


async def demo(sandbox: Sandbox, context: ExecutionContext, client_id: str) -> tuple[int | None, list[str]]:
    """Run the program in the pod at *place* as the sandbox's kubelet does; its exit code and its lines."""
    port = int(sandbox.metadata_url(NODE).rpartition(":")[2]) if not sandbox.redirects else 0
    environment: Mapping[str, str] = {
        **sandbox.commands.pod_environment(ProgramPorts(0, 0, port)),
        **context.environment,
    }
    names = [f"--subscriptionid={SUBSCRIPTION}", f"--clientid={client_id}", f"--resourcegroup={RESOURCE_GROUP}"]
    process = await asyncio.create_subprocess_exec(
        *context.command([sys.executable, "-m", "podidentity_demo", *names, "--once", "--timeout=1", "--period=2"]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode().splitlines()


async def test_the_demo_gets_its_tokens_while_the_identity_is_being_assigned(sandbox: Sandbox) -> None:
    known = sandbox.azure.directory.add_identity(identity_id("one"))
    sandbox.azure.directory.grant(known.object_id, "Reader")
    await sandbox.cluster.apply(identity("one", type=0, resourceID=known.resource_id, clientID=known.client_id))
    await sandbox.cluster.apply(binding("one", "one"))
    context = await run_pod(sandbox, "app", {"aadpodidbinding": "one"})
    code, lines = await demo(sandbox, context, known.client_id)
    assert code == 0, lines
    endpoint = f"{sandbox.metadata_url(NODE)}/metadata/identity/oauth2/token"
    assert lines[1:] == [
        "successfully doARMOperations vm count 1",
        f"successfully acquired a token using the MSI, msiEndpoint({endpoint})",
        f"successfully acquired a token, userAssignedID MSI, msiEndpoint({endpoint}) clientID({known.client_id})",
        "successfully made GET on instance metadata",
    ]
