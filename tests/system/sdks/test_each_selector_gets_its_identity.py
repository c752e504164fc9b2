"""Tests that an application gets a token of the identity that it names, for the resource that it names."""

import pytest

from tests.system.sdks.applications import Application
from tests.system.sdks.sdk_sandbox import RESOURCE, SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


async def test_a_request_without_a_selector_gets_the_only_identity(
    application: Application, sdk_sandbox: SdkSandbox
) -> None:
    only = await sdk_sandbox.identity("only")
    result = await sdk_sandbox.run(application, await sdk_sandbox.pod("only"))
    assert (result.claims["appid"], result.claims["oid"]) == (only.client_id, only.object_id)
    assert result.claims["aud"] == RESOURCE


async def test_of_two_identities_the_selected_one_is_used(
    application: Application, selector: str, sdk_sandbox: SdkSandbox
) -> None:
    """Detect a lost selector: a request without one gets a token of the first identity."""
    first, second = await sdk_sandbox.identity("first"), await sdk_sandbox.identity("second")
    pod = await sdk_sandbox.pod("first", "second")
    result = await sdk_sandbox.run(application, pod, selector, sdk_sandbox.id(second, selector))
    assert result.claims["appid"] == second.client_id
    assert result.claims["xms_mirid"] == second.resource_id
    assert result.claims["aud"] == RESOURCE
    result = await sdk_sandbox.run(application, pod)
    assert result.claims["appid"] == first.client_id


@pytest.mark.needs("chain")
async def test_the_chain_stops_at_the_managed_identity(
    application: Application, az: dict[str, str], sdk_sandbox: SdkSandbox
) -> None:
    """Its probe, which needs a response within a second, finds the endpoint; the chain does not use later links."""
    first = await sdk_sandbox.identity("first")
    result = await sdk_sandbox.run(application, await sdk_sandbox.pod("first"), kind="chain", environment=az)
    assert result.claims["appid"] == first.client_id


@pytest.mark.needs("full_chain")
async def test_the_chain_gets_the_identity_that_its_environment_names(
    application: Application, az: dict[str, str], sdk_sandbox: SdkSandbox
) -> None:
    await sdk_sandbox.identity("first")
    second = await sdk_sandbox.identity("second")
    pod = await sdk_sandbox.pod("first", "second")
    named = {**az, "AZURE_CLIENT_ID": second.client_id}
    # With the second variable the chain has no other link and sends no probe.
    for environment in (named, named | {"AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential"}):
        result = await sdk_sandbox.run(application, pod, kind="chain", environment=environment)
        assert result.claims["appid"] == second.client_id
