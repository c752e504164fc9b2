"""A run of the demo: it prints the Go implementation's four lines, and one failure does not hide the others."""

import dataclasses

from podidentity_demo.settings import Settings
from podidentity_sandbox.machines import SYSTEM
from podidentity_sandbox.serving import ResponseFault
from tests.demo.conftest import one_run
from tests.sandbox.azure.conftest import Azure

TOKEN = "/metadata/identity/oauth2/token"


def four_lines(azure: Azure) -> list[str]:
    endpoint = f"{azure.imds.url}{TOKEN}"
    return [
        "successfully doARMOperations vm count 1",
        f"successfully acquired a token using the MSI, msiEndpoint({endpoint})",
        f"successfully acquired a token, userAssignedID MSI, msiEndpoint({endpoint}) clientID({azure.one.client_id})",
        "successfully made GET on instance metadata",
    ]


async def test_the_four_lines_have_the_order_of_the_go_implementation(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    assert await one_run(settings) == four_lines(azure)


async def test_azures_library_selects_no_identity_and_the_plain_requests_select_it(
    azure: Azure, settings: Settings
) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    await one_run(settings)
    named = [call.query.get("client_id") for call in azure.imds.token_calls]
    assert named == [azure.one.client_id, None, azure.one.client_id]


async def test_each_run_requests_new_tokens(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    for _ in range(2):
        await one_run(settings)
    assert len(azure.imds.token_calls) == 6


async def test_a_failed_step_is_reported_and_the_others_run(azure: Azure, settings: Settings) -> None:
    azure.vm.attach(azure.one)
    failed, *others = await one_run(settings)
    assert failed.startswith("failed to doARMOperations, error: ")
    assert others == four_lines(azure)[1:]


async def test_a_fault_in_one_run_does_not_affect_the_next(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    azure.imds.faults.add(ResponseFault(status=500, times=3, path=TOKEN))
    failed = [line for line in await one_run(settings) if line.startswith("failed")]
    assert len(failed) == 3
    assert await one_run(settings) == four_lines(azure)


async def test_two_identities_of_one_pod_are_reported(azure: Azure, settings: Settings) -> None:
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    other = dataclasses.replace(settings, client_id=azure.two.client_id)
    failures = [line for line in await one_run(other) if line.startswith("failed")]
    # IMDS gives no token without a name where there are two; NMI would give one of the first.
    assert any("acquire a token using the MSI" in line for line in failures)


async def test_a_token_without_a_client_id_of_another_identity_is_reported(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    azure.vm.system_assigned, azure.vm.types = azure.two, azure.vm.types | {SYSTEM}
    *lines, reported = await one_run(settings)
    assert all(line.startswith("successfully") for line in lines)
    assert f"the token without a client id is of {azure.two.client_id}; bind only one AzureIdentity" in reported
