"""Requests to AAD: the discovery documents, and each error next to a request that succeeds."""

import pytest

from podidentity_sandbox.tokens import read_claims
from tests.sandbox.azure.conftest import Azure


async def test_a_valid_request_is_accepted(azure: Azure) -> None:
    status, body = await azure.ask_aad()
    assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 3600)


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"client_id": "unknown"}, 400, "unauthorized_client"),
        ({"client_secret": "x"}, 401, "invalid_client"),
        ({"scope": "https://vault.azure.net/"}, 400, "invalid_scope"),
        ({"scope": "/.default"}, 400, "invalid_scope"),
    ],
    ids=["grant", "client", "secret", "scope-without-default", "empty-scope"],
)
async def test_one_wrong_field_is_rejected(azure: Azure, changed: dict[str, str], status: int, error: str) -> None:
    given, body = await azure.ask_aad(**changed)
    assert (given, body["error"]) == (status, error)
    assert body["error_description"].startswith("AADSTS")


async def test_another_tenant_is_rejected(azure: Azure) -> None:
    status, body = await azure.ask_aad(tenant="elsewhere")
    assert (status, body["error"]) == (400, "invalid_request")


async def test_adfs_has_no_version_two(azure: Azure) -> None:
    azure.directory.add_tenant("adfs")
    azure.directory.consent(azure.controller.client_id, "adfs")
    resource = {"scope": "", "resource": "https://vault.azure.net"}
    for endpoint, status in (("oauth2/token", 200), ("oauth2/v2.0/token", 405)):
        assert (await azure.ask_aad(tenant="adfs", endpoint=endpoint, **resource))[0] == status


async def test_a_double_slash_before_default_is_kept(azure: Azure) -> None:
    _, body = await azure.ask_aad(scope="https://management.azure.com//.default")
    assert read_claims(body["access_token"])["aud"] == "https://management.azure.com/"


async def test_the_documents_lead_to_the_token_endpoint(azure: Azure) -> None:
    async with azure.session.get(f"{azure.aad.url}/common/discovery/instance?api-version=1.1") as response:
        discovery = (await response.json())["tenant_discovery_endpoint"]
    async with azure.session.get(discovery) as response:
        openid = await response.json()
    assert openid["token_endpoint"] == f"{azure.aad.url}/{azure.directory.tenant_id}/oauth2/v2.0/token"
    async with azure.session.get(openid["jwks_uri"]) as response:
        assert (await response.json())["keys"][0]["kty"] == "RSA"
    async with azure.session.get(f"{azure.aad.url}/nothing") as response:
        assert response.status == 404
