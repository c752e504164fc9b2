"""IMDS's rules for token requests, as Azure documents them. Excluded: limits, lag, faults."""

import pytest

from tests.sandbox.azure.conftest import MINT, Azure

ARM = "resource=https%3A%2F%2Fmanagement.azure.com%2F"
ASK = f"api-version=2018-02-01&{ARM}"


async def test_the_only_identity_on_the_vm_gets_a_token_that_names_it(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    status, body, response = await azure.ask_imds()
    assert (status, body["client_id"], body["token_type"]) == (200, azure.one.client_id, "Bearer")
    claims = MINT.verify(body["access_token"])
    assert claims["appid"] == azure.one.client_id
    assert claims["oid"] == azure.one.object_id
    assert claims["xms_mirid"] == azure.one.resource_id
    assert claims["aud"] == "https://management.azure.com/"
    assert claims["tid"] == azure.directory.tenant_id
    assert str(claims["exp"]) == body["expires_on"]
    assert all(isinstance(value, str) for value in body.values())
    assert response.headers["Server"].startswith("IMDS/")


async def test_each_selector_finds_its_identity_in_any_case_and_is_echoed(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    for parameter, value in (
        ("client_id", azure.two.client_id.upper()),
        ("object_id", azure.two.object_id),
        ("msi_res_id", azure.two.resource_id.lower()),
        ("mi_res_id", azure.two.resource_id),
    ):
        status, body, _ = await azure.ask_imds(f"{ASK}&{parameter}={value}")
        assert (status, MINT.verify(body["access_token"])["appid"]) == (200, azure.two.client_id), parameter
        assert body[parameter] == value


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (f"{ASK}&client_id=00000000-0000-0000-0000-000000000000", "Identity not found"),
        ("api-version=2018-02-01", "'resource' is missing"),
        (f"{ASK}&client_id=a&object_id=b", "mutually exclusive"),
        (f"{ASK}&resource=https://vault.azure.net", "more than once"),
    ],
    ids=["unknown-client", "no-resource", "two-selectors", "doubled-parameter"],
)
async def test_a_wrong_query_is_an_invalid_request(azure: Azure, query: str, says: str) -> None:
    azure.vm.attach(azure.one)
    status, body, _ = await azure.ask_imds(query)
    assert (status, body["error"]) == (400, "invalid_request")
    assert says in body["error_description"]


async def test_an_unknown_api_version_lists_the_newest(azure: Azure) -> None:
    for query in (ARM, f"api-version=2001-01-01&{ARM}"):
        status, body, _ = await azure.ask_imds(query)
        assert status == 400
        assert len(body["newest-versions"]) == 3
        assert "error_description" not in body


async def test_headers_are_checked_first(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    status, body, _ = await azure.ask_imds(headers={})
    assert (status, body["error_description"]) == (400, "Required metadata header not specified")
    status, _, _ = await azure.ask_imds(headers={"Metadata": "true", "X-Forwarded-For": "10.0.0.1"})
    assert status == 400
    status, _, _ = await azure.ask_imds(headers={"metadata": "True"})
    assert status == 200


async def test_only_get_returns_tokens(azure: Azure) -> None:
    status, _, response = await azure.ask_imds(method="POST")
    assert (status, response.headers["Allow"]) == (405, "GET")


async def test_a_vm_without_identities_returns_identity_not_found(azure: Azure) -> None:
    status, body, _ = await azure.ask_imds()
    assert (status, body["error_description"]) == (400, "Identity not found")


async def test_with_several_identities_a_selector_is_required(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    status, body, _ = await azure.ask_imds()
    assert status == 400
    assert body["error_description"].startswith("Multiple user assigned identities exist")


async def test_the_system_assigned_identity_is_the_default(azure: Azure) -> None:
    system = azure.directory.add_identity("/vm-itself")
    azure.vm.system_assigned, azure.vm.types = system, frozenset({"SystemAssigned"})
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    status, body, _ = await azure.ask_imds()
    assert (status, body["client_id"]) == (200, system.client_id)


async def test_a_cached_token_is_returned_unless_the_cache_is_bypassed(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    _, first, _ = await azure.ask_imds()
    _, again, _ = await azure.ask_imds()
    _, refreshed, _ = await azure.ask_imds(f"{ASK}&bypass_cache=true")
    assert first["access_token"] == again["access_token"] != refreshed["access_token"]


async def test_an_address_that_is_no_vm_is_an_unknown_source(azure: Azure) -> None:
    azure.imds.hosts.clear()
    status, body, _ = await azure.ask_imds()
    assert (status, body["error"]) == (401, "unknown_source")


async def test_another_path_is_not_found(azure: Azure) -> None:
    status, _, _ = await azure.ask_imds(path="/metadata/identity/nothing")
    assert status == 404
