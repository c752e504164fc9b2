"""A run of the demo: the Go implementation's four lines, one failure that does not hide the others, and its advice."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from podidentity_demo.demo import ADVICE, advice
from podidentity_demo.settings import DemoSettings
from podidentity_sandbox.serving import ResponseFault
from tests.contract.demo.conftest import one_run
from tests.contract.sandbox.azure.conftest import Azure

TOKEN = "/metadata/identity/oauth2/token"
NOT_LISTENING = "127.0.0.1:1"


@pytest.fixture
def attached(azure: Azure) -> Azure:
    """The identity of the settings is on the VM and reads it."""
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    return azure


def four_lines(azure: Azure) -> list[str]:
    endpoint = f"{azure.imds.url}{TOKEN}"
    return [
        "successfully doARMOperations vm count 1",
        f"successfully acquired a token using the MSI, msiEndpoint({endpoint})",
        f"successfully acquired a token, userAssignedID MSI, msiEndpoint({endpoint}) clientID({azure.one.client_id})",
        "successfully made GET on instance metadata",
    ]


async def test_the_four_lines_have_the_order_of_the_go_implementation(attached: Azure, settings: DemoSettings) -> None:
    attached.imds.faults.add(ResponseFault(status=500, times=3, path=TOKEN))
    failed = [line for line in await one_run(settings) if line.startswith("failed")]
    assert len(failed) == 3
    before = len(attached.imds.token_calls)
    assert await one_run(settings) == four_lines(attached), "a fault in one run does not affect the next"
    named = [call.query.get("client_id") for call in attached.imds.token_calls[before:]]
    assert named == [attached.one.client_id, None, attached.one.client_id], "Azure's library selects no identity"


async def test_without_the_role_reader_the_command_that_grants_it_is_printed_and_the_other_steps_run(
    azure: Azure, settings: DemoSettings
) -> None:
    azure.vm.attach(azure.one)
    failed, *others = await one_run(settings)
    assert failed.startswith("failed to doARMOperations, error: ")
    assert "answers 403: AuthorizationFailed" in failed
    assert "az role assignment create --role Reader" in failed
    assert others == four_lines(azure)[1:]


async def test_other_identities_on_the_vm_are_reported(azure: Azure, settings: DemoSettings) -> None:
    azure.vm.attach(azure.one)
    other_settings = dataclasses.replace(settings, client_id=azure.two.client_id)
    *_, compared = await one_run(other_settings)
    assert f"the token without a client id is of {azure.one.client_id}; bind only one AzureIdentity" in compared
    azure.vm.attach(azure.two)
    failures = [line for line in await one_run(other_settings) if line.startswith("failed")]
    # IMDS gives no token without a name where there are two; NMI would give one of the first.
    assert any("acquire a token using the MSI" in line for line in failures)


async def test_the_advice_for_an_unbound_pod_names_its_label(azure: Azure, settings: DemoSettings) -> None:
    lines = await one_run(settings)
    assert all("Identity not found" in line and "aadpodidbinding" in line for line in lines[:3])
    assert lines[3:] == ["successfully made GET on instance metadata"]


async def test_the_advice_for_a_missing_group_names_the_flags(attached: Azure, settings: DemoSettings) -> None:
    missing = {"error": {"code": "ResourceGroupNotFound", "message": "m"}}
    attached.arm.faults.add(ResponseFault(status=404, document=missing))
    failed, *_ = await one_run(settings)
    assert "ResourceGroupNotFound: m; see that --subscriptionid and --resourcegroup are right" in failed


async def test_without_a_response_of_imds_nmi_and_the_proxy_are_named(
    settings: DemoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{NOT_LISTENING}")
    lines = await one_run(dataclasses.replace(settings, metadata_service=f"http://{NOT_LISTENING}"))
    assert len(lines) == 4
    assert all("see that NMI runs on this pod's node" in line for line in lines)


async def test_for_an_unreachable_arm_or_a_proxy_that_refuses_the_network_path_is_named(
    attached: Azure, settings: DemoSettings
) -> None:
    failed, *_ = await one_run(dataclasses.replace(settings, resource_manager=f"https://{NOT_LISTENING}"))
    assert f"no answer from https://{NOT_LISTENING}: ConnectionRefusedError" in failed
    assert "network policies, the firewall, HTTPS_PROXY" in failed
    failed, *_ = await one_run(dataclasses.replace(settings, proxy=attached.imds.url.removeprefix("http://")))
    assert "Tunnel connection failed" in failed
    assert "HTTPS_PROXY" in failed


@pytest.mark.parametrize("service", ADVICE)
@pytest.mark.parametrize("status", [0, 200, 302, 400, 401, 403, 404, 410, 429, 500, 503])
def test_there_is_advice_for_every_status(service: str, status: int) -> None:
    text = advice(service, status)
    assert text
    assert text == " ".join(text.split())
    assert not text.endswith(".")
    assert advice("token", 403) != advice("Resource Manager", 403)


@asynccontextmanager
async def proxy(requests: list[str]) -> AsyncIterator[str]:
    """Start a proxy that connects to any requested address and records the first line of each request. Yield its host
    and port.
    """

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        requests.append(first)
        host, _, port = first.split()[1].rpartition(":")
        to_server, from_server = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(pass_on(reader, from_server), pass_on(to_server, writer))
        finally:  # also after a reset or at the end of the loop: the garbage collector warns of an open writer
            from_server.close()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_list_of_vms_is_read_through_the_proxy_which_sees_no_token(
    attached: Azure, settings: DemoSettings
) -> None:
    requests: list[str] = []
    async with proxy(requests) as address:
        assert await one_run(dataclasses.replace(settings, proxy=address)) == four_lines(attached)
    server = urlsplit(attached.arm.url)
    assert [line.rpartition(" ")[0] for line in requests] == [f"CONNECT {server.hostname}:{server.port}"]
