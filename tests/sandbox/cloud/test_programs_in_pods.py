"""`podidctl sandbox exec` with a program that uses only IMDS and the public names of Azure's services."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from podidctl.cli import main
from podidentity_sandbox.given_identities import parse
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import ask, run_pod

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
print(json.dumps([each["subscriptionId"] for each in subscriptions["value"]]))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(identities=parse(["blue"], ()), namespaces=True, environment=os.environ)) as sandbox:
        await run_pod(sandbox, "blue", {"aadpodidbinding": "blue"})
        yield sandbox


async def run_in_pod(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, *command: str) -> int:
    monkeypatch.setenv("KUBECONFIG", str(sandbox.cluster.kubeconfig))
    return await asyncio.to_thread(main, ["sandbox", "exec", "blue", "--", *command])


async def test_the_program_reaches_arm_as_the_identity_of_the_pod(
    served: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await run_in_pod(served, monkeypatch, sys.executable, "-c", PROGRAM) == 0
    (subscription,) = json.loads(capfd.readouterr().out)
    assert subscription == served.vm_id("node-0").split("/")[2]
    identity = served.azure.directory.managed(served.identities[0].client_id)
    assert identity is not None
    callers = {call.caller for call in served.azure.arm.calls if call.path == "/subscriptions"}
    assert callers == {identity.object_id}


async def test_the_program_trusts_the_authority_of_this_sandbox_whatever_the_shell_trusts(
    served: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setenv("COLOUR", "blue")
    assert await run_in_pod(served, monkeypatch, "sh", "-c", 'echo "$COLOUR $SSL_CERT_FILE $REQUESTS_CA_BUNDLE"') == 0
    authority = served.files.certificates
    assert capfd.readouterr().out.split() == ["blue", str(authority), str(authority)]


async def test_the_exit_code_is_that_of_the_program(served: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await run_in_pod(served, monkeypatch, "sh", "-c", "exit 7") == 7


@pytest.mark.parametrize(("leaf", "value"), [("name", "node-0"), ("osType", "Linux")])
async def test_a_pod_reads_a_value_of_the_instance_data_as_text(served: Sandbox, leaf: str, value: str) -> None:
    context = served.cluster.kubelets["node-0"].context("default", "blue")
    assert context is not None
    path = f"/metadata/instance/compute/{leaf}?api-version=2021-02-01&format=text"
    for _ in range(2):  # the second answer is from NMI's cache
        answer = await ask(served, context, path=path)
        assert (answer.status, answer.text) == (200, value)
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert (await ask(served, context, path=path.replace("&format=text", ""))).status == 400
