"""Azure's public names in a pod with a network namespace: resolved, and served over TLS that the pod trusts."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
import pytest_asyncio

from podidentity_sandbox.namespaces import CONFIGURATIONS
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import TRUST_VARIABLES, Settings
from tests.integration.identity_requests import run_pod

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
GET = """
import json, socket, sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1]), timeout=10) as response:
        print(json.dumps([response.status, response.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(programs=False, namespaces=True, environment=os.environ)) as sandbox:
        yield sandbox
    assert not list(CONFIGURATIONS.glob(f"*-{sandbox.instance}-*"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context(sandbox: Sandbox) -> ExecutionContext:
    return await run_pod(sandbox, "names", {})


async def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def get(sandbox: Sandbox, context: ExecutionContext, url: str) -> tuple[int, str]:
    """Return status and body of a GET from the pod; 0 and the error if there is no response."""
    command = context.command([sys.executable, "-c", GET, url])
    status, body = json.loads(await output_of(command, sandbox.commands.trust_environment()))
    return status, body


async def test_the_names_lead_to_their_services(sandbox: Sandbox, context: ExecutionContext) -> None:
    status, body = await get(sandbox, context, "https://management.azure.com/metadata/endpoints?api-version=2022-09-01")
    assert (status, json.loads(body)["resourceManager"]) == (200, "https://management.azure.com")
    tenant = sandbox.azure.directory.tenant_id
    url = f"https://login.microsoftonline.com/{tenant}/v2.0/.well-known/openid-configuration"
    status, body = await get(sandbox, context, url)
    assert (status, "token_endpoint" in json.loads(body)) == (200, True)
    status, body = await get(sandbox, context, "https://anyaccount.blob.core.windows.net/?comp=list")
    assert (status, "NoAuthenticationInformation" in body) == (401, True)
    assert sandbox.azure.storage.calls[-1].account == "anyaccount"


async def test_other_names_do_not_exist(sandbox: Sandbox, context: ExecutionContext) -> None:
    status, error = await get(sandbox, context, "https://example.com/")
    assert (status, "Name or service not known" in error) == (0, True)


async def test_only_a_client_that_has_the_authority_trusts_the_names(
    sandbox: Sandbox, context: ExecutionContext
) -> None:
    command = context.command([sys.executable, "-c", GET, "https://management.azure.com/"])
    assert "CERTIFICATE_VERIFY_FAILED" in await output_of(command, {})
    assert set(sandbox.commands.trust_environment()) == set(TRUST_VARIABLES)


async def test_this_machines_own_name_servers_stay_as_they_are(sandbox: Sandbox, context: ExecutionContext) -> None:
    command = ["cat", "/etc/resolv.conf"]
    in_pod, here = await output_of(context.command(command)), await output_of(command)
    assert in_pod == f"nameserver {sandbox.network.pod_facing_address}\n" != here
