"""ARM's public metadata, and the subscriptions, tenants and resource groups of a caller."""

from typing import Any

import pytest

from tests.sandbox.azure.conftest import GROUP, SUBSCRIPTION, Azure


async def metadata(azure: Azure, version: str, *, host: str = "") -> Any:
    """Request the metadata of the cloud without a token."""
    url = f"{azure.arm.url}/metadata/endpoints?api-version={version}"
    async with azure.session.get(url, headers={"Host": host} if host else {}) as response:
        assert response.status == 200
        return await response.json()


async def test_the_metadata_needs_no_token_and_names_the_servers_of_this_sandbox(azure: Azure) -> None:
    azure.arm.login_url = azure.aad.url
    document = await metadata(azure, "2022-09-01")
    assert document["authentication"]["loginEndpoint"] == azure.aad.url
    assert document["authentication"]["audiences"] == [
        "https://management.azure.com/",
        "https://management.core.windows.net/",
    ]
    assert document["resourceManager"] == azure.arm.url
    assert document["suffixes"]["storage"] == "core.windows.net"


async def test_a_client_that_uses_the_public_name_gets_public_names(azure: Azure) -> None:
    azure.arm.login_url = azure.aad.url
    document = await metadata(azure, "2022-09-01", host="management.azure.com")
    assert document["authentication"]["loginEndpoint"] == "https://login.microsoftonline.com"
    assert document["resourceManager"] == "https://management.azure.com"


async def test_older_api_versions_have_their_own_forms(azure: Azure) -> None:
    azure.arm.login_url = azure.aad.url
    old = await metadata(azure, "2015-01-01")
    assert old["authentication"]["loginEndpoint"] == f"{azure.aad.url}/"
    (cloud,) = await metadata(azure, "2019-05-01")
    assert cloud["resourceManager"] == azure.arm.url


async def test_metadata_without_an_api_version_is_refused(azure: Azure) -> None:
    async with azure.session.get(f"{azure.arm.url}/metadata/endpoints") as response:
        assert response.status == 400


@pytest.mark.parametrize("path", ["/subscriptions", "/tenants", f"/subscriptions/{SUBSCRIPTION}/resourcegroups"])
async def test_everything_else_needs_a_token(azure: Azure, path: str) -> None:
    assert (await azure.call_arm("GET", path, token=""))[0] == 401
    assert (await azure.call_arm("GET", path))[0] == 200


async def test_a_caller_with_a_role_finds_the_subscription_and_its_groups(azure: Azure) -> None:
    (found,) = (await azure.call_arm("GET", "/subscriptions"))[1]["value"]
    assert (found["subscriptionId"], found["tenantId"]) == (SUBSCRIPTION, azure.directory.tenant_id)
    assert found["state"] == "Enabled"
    assert (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION.upper()}"))[1] == found
    (group,) = (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups"))[1]["value"]
    assert group["name"] == GROUP
    assert (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP.lower()}"))[1] == group


async def test_a_caller_without_a_role_finds_its_tenant_only(azure: Azure) -> None:
    mine = azure.token(azure.one)
    assert (await azure.call_arm("GET", "/subscriptions", token=mine))[1] == {"value": []}
    assert (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}", token=mine))[0] == 404
    (tenant,) = (await azure.call_arm("GET", "/tenants", token=mine))[1]["value"]
    assert tenant["tenantId"] == azure.directory.tenant_id


async def test_an_unknown_subscription_or_group_is_not_found(azure: Azure) -> None:
    status, document, _ = await azure.call_arm("GET", "/subscriptions/00000000-0000-0000-0000-000000000000")
    assert (status, document["error"]["code"]) == (404, "SubscriptionNotFound")
    status, document, _ = await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/other")
    assert (status, document["error"]["code"]) == (404, "ResourceGroupNotFound")


async def test_a_change_of_a_subscription_is_not_served(azure: Azure) -> None:
    assert (await azure.call_arm("DELETE", f"/subscriptions/{SUBSCRIPTION}"))[0] == 404
