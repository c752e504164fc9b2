"""Programs in a pod with a network namespace that use only IMDS and the public names of Azure's services.

The names are resolved there, and served over TLS that the pod trusts. `podidctl sandbox exec` starts such programs. The
identities of the command line are served to pods by the real programs, and removed with the sandbox.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
import pytest_asyncio

from podidctl.cli import main
from podidentity.exits import StartError
from podidentity.resources import BINDINGS, IDENTITIES
from podidentity_sandbox.namespaces import CONFIGURATIONS
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import TRUST_VARIABLES, SandboxSettings, given_identities
from tests.support.identity_requests import ask, identity, run_pod

pytestmark = [pytest.mark.root, pytest.mark.programs, pytest.mark.asyncio(loop_scope="module")]
PROGRAM = """
import json, urllib.request
def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        return json.load(response)
resource = "https://management.azure.com/"
token = get("http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource,
            Metadata="true")["access_token"]
subscriptions = get(resource + "subscriptions?api-version=2022-12-01", Authorization="Bearer " + token)
print(json.dumps([subscription["subscriptionId"] for subscription in subscriptions["value"]]))
"""
GET = """
import json, sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=30) as response:
        print(json.dumps([response.status, response.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Sandbox]:
    async with Sandbox(
        SandboxSettings(identities=given_identities(["blue"], ["robot"]), namespaces=True, environment=os.environ)
    ) as sandbox:
        await run_pod(sandbox, "blue", {"aadpodidbinding": "blue"})
        yield sandbox
    assert not list(CONFIGURATIONS.glob(f"*-{sandbox.instance}-*"))


@pytest.fixture
def context(served: Sandbox) -> ExecutionContext:
    pod_context = served.cluster.kubelets["node-0"].context("default", "blue")
    assert pod_context is not None
    return pod_context


async def run_in_pod(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, *command: str) -> int:
    monkeypatch.setenv("KUBECONFIG", str(sandbox.cluster.kubeconfig))
    return await asyncio.to_thread(main, ["sandbox", "exec", "blue", "--", *command])


async def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def get(sandbox: Sandbox, context: ExecutionContext, url: str) -> tuple[int, str]:
    """Return status and body of a GET from the pod; 0 and the error if there is no response."""
    command = context.command([sys.executable, "-c", GET, url])
    status, body = json.loads(await output_of(command, sandbox.commands.trust_environment()))
    return status, body


async def test_the_program_reaches_arm_as_the_identity_of_the_pod(
    served: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await run_in_pod(served, monkeypatch, sys.executable, "-c", PROGRAM) == 0
    (subscription,) = json.loads(capfd.readouterr().out)
    assert subscription == served.vm_id("node-0").split("/")[2]
    blue = served.azure.directory.managed(next(iter(served.identities.values())))
    assert blue is not None
    callers = {call.caller for call in served.azure.arm.calls if call.path == "/subscriptions"}
    assert callers == {blue.object_id}


async def test_the_program_trusts_the_authority_of_this_sandbox_whatever_the_shell_trusts(
    served: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setenv("COLOUR", "blue")
    script = 'echo "$COLOUR $SSL_CERT_FILE $REQUESTS_CA_BUNDLE"; exit 7'
    assert await run_in_pod(served, monkeypatch, "sh", "-c", script) == 7
    authority = served.files.certificates
    assert capfd.readouterr().out.split() == ["blue", str(authority), str(authority)]


@pytest.mark.parametrize(("leaf", "value"), [("name", "node-0"), ("osType", "Linux")])
async def test_a_pod_reads_a_value_of_the_instance_data_as_text(
    served: Sandbox, context: ExecutionContext, leaf: str, value: str
) -> None:
    path = f"/metadata/instance/compute/{leaf}?api-version=2021-02-01&format=text"
    for _ in range(2):  # the second response is from NMI's cache
        response = await ask(served, context, path=path)
        assert (response.status, response.text) == (200, value)
        assert response.headers["Content-Type"].startswith("text/plain")
    assert (await ask(served, context, path=path.replace("&format=text", ""))).status == 400


async def test_the_names_lead_to_their_services_and_other_names_do_not_exist(
    served: Sandbox, context: ExecutionContext
) -> None:
    status, body = await get(served, context, "https://management.azure.com/metadata/endpoints?api-version=2022-09-01")
    assert (status, json.loads(body)["resourceManager"]) == (200, "https://management.azure.com")
    tenant = served.azure.directory.tenant_id
    url = f"https://login.microsoftonline.com/{tenant}/v2.0/.well-known/openid-configuration"
    status, body = await get(served, context, url)
    assert (status, "token_endpoint" in json.loads(body)) == (200, True)
    status, error = await get(served, context, "https://example.com/")
    assert (status, "Name or service not known" in error) == (0, True)


async def test_only_a_client_that_has_the_authority_trusts_the_names(
    served: Sandbox, context: ExecutionContext
) -> None:
    command = context.command([sys.executable, "-c", GET, "https://management.azure.com/"])
    assert "CERTIFICATE_VERIFY_FAILED" in await output_of(command, {})
    assert set(served.commands.trust_environment()) == set(TRUST_VARIABLES)


async def test_this_machines_own_name_servers_stay_as_they_are(served: Sandbox, context: ExecutionContext) -> None:
    command = ["cat", "/etc/resolv.conf"]
    in_pod, here = await output_of(context.command(command)), await output_of(command)
    assert in_pod == f"nameserver {served.network.pod_facing_address}\n" != here


async def test_a_service_principal_signs_in_with_its_secret(served: Sandbox) -> None:
    context = await run_pod(served, "robot", {"aadpodidbinding": "robot"})
    response = await ask(served, context)
    (client_id,) = [client_id for given, client_id in served.identities.items() if given.name == "robot"]
    assert (response.status, response.claims["appid"]) == (200, client_id), response.text
    assert served.azure.aad.calls[-1].proof == "secret"


async def test_nodes_of_a_scale_set_share_its_identities() -> None:
    settings = SandboxSettings(nodes=2, scale_set=True, system_assigned=True, programs=False, namespaces=False)
    async with Sandbox(settings) as sandbox:
        machine = sandbox.azure.arm.vm(sandbox.vm_id("node-1"))
        assert machine.kind == "virtualMachineScaleSets"
        assert machine is sandbox.azure.arm.vm(sandbox.vm_id("node-0"))
        machine.attach(sandbox.azure.demo)
        first, second = (host.identities() for host in sandbox.azure.imds.hosts)
        assert first == second
        assert first.system_assigned is not None
        assert first.user_assigned == (sandbox.azure.demo,)


async def test_without_the_setting_no_vm_has_a_system_assigned_identity() -> None:
    async with Sandbox(SandboxSettings(programs=False, namespaces=False)) as sandbox:
        assert sandbox.azure.imds.hosts[0].identities().system_assigned is None


async def test_objects_that_exist_keep_the_sandbox_from_starting_and_stay(served: Sandbox) -> None:
    """The second sandbox uses the API server of the first one."""
    await served.cluster.apply(identity("theirs", type=0, resourceID="/r", clientID="c"))
    second = SandboxSettings(
        kubeconfig=served.cluster.kubeconfig,
        identities=given_identities(["mine", "theirs"], ()),
        programs=False,
        namespaces=False,
        kinds=False,
        schedule=False,
        run_pods=False,
    )
    with pytest.raises(StartError, match="AzureIdentity default/theirs exists; use another name or delete it"):
        async with Sandbox(second):
            pass
    names = {item.metadata.name for item in await served.cluster.client.list(IDENTITIES)}
    assert ("theirs" in names, "mine" in names) == (True, False)
    assert "mine" not in {binding.metadata.name for binding in await served.cluster.client.list(BINDINGS)}
