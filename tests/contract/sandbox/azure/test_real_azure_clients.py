"""The emulators satisfy the clients that the programs use: azure-identity and azure-mgmt-compute, unmodified."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientSecretCredential
from azure.mgmt.compute.aio import ComputeManagementClient

from podidentity_sandbox.machines import USER
from podidentity_sandbox.tokens import read_claims
from tests.contract.sandbox.azure.conftest import GROUP, SUBSCRIPTION, Azure, identity_id

SCOPE = "https://management.azure.com/.default"


def credential(azure: Azure, secret: str = "") -> ClientSecretCredential:
    return ClientSecretCredential(
        azure.directory.tenant_id,
        azure.controller.client_id,
        secret or azure.controller.secret,
        authority=azure.aad.url,
        transport=AioHttpTransport(session=azure.session, session_owner=False),
        retry_total=0,
    )


@pytest.fixture
async def compute(azure: Azure) -> AsyncIterator[ComputeManagementClient]:
    async with ComputeManagementClient(
        credential(azure),
        SUBSCRIPTION,
        base_url=azure.arm.url,
        credential_scopes=[SCOPE],
        transport=AioHttpTransport(session=azure.session, session_owner=False),
        polling_interval=0,
        retry_total=0,
    ) as client:
        yield client


async def test_a_secret_is_exchanged_for_a_token_of_its_principal(azure: Azure) -> None:
    async with credential(azure) as asking:
        token = await asking.get_token(SCOPE)
    claims = read_claims(token.token)
    assert (claims["appid"], claims["aud"]) == (azure.controller.client_id, "https://management.azure.com")


async def test_a_wrong_secret_is_rejected_with_its_error_number(azure: Azure) -> None:
    async with credential(azure, "wrong") as asking:
        with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
            await asking.get_token(SCOPE)


async def test_machines_are_read_and_listed(azure: Azure, compute: ComputeManagementClient) -> None:
    machine = await compute.virtual_machines.get(GROUP, "vm-0")
    assert (machine.name, machine.provisioning_state, machine.etag) == ("vm-0", "Succeeded", azure.vm.etag)
    assert [found.name async for found in compute.virtual_machines.list(GROUP)] == ["vm-0"]
    scale_set = await compute.virtual_machine_scale_sets.get(GROUP, "set-0")
    assert scale_set.name == "set-0"


async def test_an_update_is_polled_until_it_ends(azure: Azure, compute: ComputeManagementClient) -> None:
    azure.vm.operation_seconds = azure.set.operation_seconds = 0
    body: Any = {"identity": {"type": USER, "userAssignedIdentities": {identity_id("1"): {}}}}
    for operations, name in ((compute.virtual_machines, "vm-0"), (compute.virtual_machine_scale_sets, "set-0")):
        poller = await operations.begin_update(GROUP, name, body)
        updated = await poller.result()
        identity = updated.identity
        assert identity is not None
        assert len(identity.user_assigned_identities or {}) == 1
    assert azure.vm.identities == azure.set.identities == {identity_id("1").lower()}


async def test_a_refusal_reaches_the_caller_with_code_and_ids(azure: Azure, compute: ComputeManagementClient) -> None:
    azure.arm.marked.unauthorized.add(identity_id("2").lower())
    body: Any = {"identity": {"type": USER, "userAssignedIdentities": {identity_id("2"): {}}}}
    with pytest.raises(HttpResponseError, match=identity_id("2")) as refused:
        await compute.virtual_machines.begin_update(GROUP, "vm-0", body)
    assert refused.value.error is not None
    assert refused.value.error.code == "LinkedAuthorizationFailed"
