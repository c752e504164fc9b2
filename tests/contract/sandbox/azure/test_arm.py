"""ARM of the sandbox: authorization, operations and polling, etags, throttling, lists, the merge of a PATCH's identity
section, metadata, and the subscriptions, tenants and resource groups of a caller."""

from typing import Any

import pytest

from podidentity_sandbox.machines import NONE, SYSTEM, USER, ArmRefusalError
from podidentity_sandbox.serving import ResponseFault
from tests.contract.sandbox.azure.conftest import COMPUTE, GROUP, MINT, SET, SUBSCRIPTION, VM, Azure, identity_id

ADD = {"identity": {"type": USER, "userAssignedIdentities": {identity_id("1"): {}}}}


async def test_a_caller_without_a_valid_token_is_rejected(azure: Azure) -> None:
    vault = azure.token(azure.controller, "https://vault.azure.net")
    expired = MINT.mint(audience="https://management.azure.com", client_id="a", object_id="b", tenant_id="c", seconds=0)
    for token in ("", "nonsense", azure.token(azure.controller)[:-8] + "AAAAAAAA", vault, expired):
        status, _, response = await azure.call_arm("GET", VM, token=token)
        assert (status, "WWW-Authenticate" in response.headers) == (401, True)
    for audience in ("https://management.azure.com", "https://management.core.windows.net/"):
        assert (await azure.call_arm("GET", VM, token=azure.token(azure.controller, audience)))[0] == 200


async def test_roles_determine_what_a_caller_may_do(azure: Azure) -> None:
    mine = azure.token(azure.one)
    assert (await azure.call_arm("GET", VM, token=mine))[0] == 403
    azure.directory.grant(azure.one.object_id, "Reader")
    assert (await azure.call_arm("GET", VM, token=mine))[0] == 200
    status, document, _ = await azure.call_arm("PATCH", VM, ADD, token=mine)
    assert (status, azure.arm.calls[-1].code) == (403, "AuthorizationFailed")
    assert "error" in document


async def test_unknown_resources_and_missing_versions_have_different_errors(azure: Azure) -> None:
    assert (await azure.call_arm("GET", VM, query=""))[0] == 400
    assert (await azure.call_arm("GET", VM + "x"))[0] == 404
    assert (await azure.call_arm("GET", "/subscriptions/x/resourceGroups/y/providers/Other/things/z"))[0] == 404
    assert (await azure.call_arm("DELETE", VM))[0] == 405
    assert (await azure.call_arm("GET", VM.upper()))[0] == 200


async def test_an_operation_runs_for_its_time_and_imds_sees_only_its_outcome(azure: Azure) -> None:
    azure.vm.operation_seconds = 5
    status, document, response = await azure.call_arm("PATCH", VM, ADD)
    poll = response.headers["Azure-AsyncOperation"].removeprefix(azure.arm.url)
    assert (status, document["properties"]["provisioningState"]) == (200, "Updating")
    assert (await azure.call_arm("GET", poll, query=""))[1]["status"] == "InProgress"
    assert (await azure.call_arm("PATCH", VM, ADD))[0] == 409
    assert (await azure.ask_imds())[0] == 400
    azure.clock.now += 5
    assert (await azure.call_arm("GET", poll, query=""))[1]["status"] == "Succeeded"
    assert (await azure.call_arm("GET", VM))[1]["properties"]["provisioningState"] == "Succeeded"
    assert (await azure.ask_imds())[0] == 200


async def test_a_failed_operation_restores_the_machine(azure: Azure) -> None:
    azure.vm.failing_next.append(ArmRefusalError(500, "InternalExecutionError", "An internal error occurred."))
    _, _, response = await azure.call_arm("PATCH", VM, ADD)
    azure.clock.now += 1
    poll = response.headers["Azure-AsyncOperation"].removeprefix(azure.arm.url)
    document = (await azure.call_arm("GET", poll, query=""))[1]
    assert (document["status"], document["error"]) == (
        "Failed",
        {"code": "InternalExecutionError", "message": "An internal error occurred."},
    )
    assert azure.vm.identities == frozenset()


async def test_a_stale_etag_is_a_failed_precondition_and_a_cloud_without_etags_returns_none(azure: Azure) -> None:
    _, document, response = await azure.call_arm("GET", VM)
    etag = str(document["etag"])
    assert response.headers["ETag"] == etag
    azure.vm.attach(azure.two)
    assert (await azure.call_arm("PATCH", VM, ADD, headers={"If-Match": etag}))[0] == 412
    assert (await azure.call_arm("PATCH", VM, ADD, headers={"If-Match": azure.vm.etag}))[0] == 200

    azure.arm.etags = False
    _, document, response = await azure.call_arm("GET", VM)
    assert "etag" not in document
    assert "ETag" not in response.headers


async def test_throttling_contains_retry_after_for_writes_only(azure: Azure) -> None:
    azure.arm.faults.add(ResponseFault(status=429, headers={"Retry-After": "30"}, method="PATCH", path=VM))
    status, _, response = await azure.call_arm("PATCH", VM, ADD)
    assert (status, response.headers["Retry-After"]) == (429, "30")
    assert (await azure.call_arm("GET", VM))[0] == 200
    assert (await azure.call_arm("PATCH", VM, ADD))[0] == 200


async def test_a_list_holds_the_machines_of_its_kind_and_group(azure: Azure) -> None:
    azure.arm.add_vm(VM.replace("MC_demo", "other"))
    for path, names in ((f"{COMPUTE}/virtualMachines", [VM]), (f"{COMPUTE}/virtualMachineScaleSets", [SET])):
        _, document, _ = await azure.call_arm("GET", path)
        assert [entry["id"] for entry in document["value"]] == names
    everywhere = COMPUTE.replace(f"/resourceGroups/{GROUP}", "")
    _, document, _ = await azure.call_arm("GET", f"{everywhere}/virtualMachines")
    assert len(document["value"]) == 2


def section(kind: str | None, **entries: object) -> dict[str, Any]:
    identity: dict[str, Any] = {} if kind is None else {"type": kind}
    if entries:
        identity["userAssignedIdentities"] = {identity_id(name[1:]): value for name, value in entries.items()}
    return {"identity": identity}


async def patch(azure: Azure, body: object, machine: str = VM) -> tuple[int, dict[str, Any]]:
    status, document, _ = await azure.call_arm("PATCH", machine, body)
    azure.clock.now += 1
    return status, document


async def test_the_map_is_merged_by_key_and_null_removes_an_entry(azure: Azure) -> None:
    for machine in (VM, SET):
        assert (await patch(azure, section(USER, _1={}, _2={}), machine))[0] == 200
        assert (await patch(azure, section(USER, _1=None, _3={}), machine))[0] == 200
        assert azure.arm.vm(machine).identities == {identity_id("2").lower(), identity_id("3").lower()}
        await patch(azure, section(None, _1={}), machine)
        assert len(azure.arm.vm(machine).identities) == 3, "without a type it stays"


async def test_a_patch_may_name_at_most_150_identities(azure: Azure) -> None:
    for number in range(151):
        azure.directory.add_identity(identity_id(f"many{number}"))
    many: dict[str, object] = {f"_many{number}": {} for number in range(151)}
    status, document = await patch(azure, section(USER, **many))
    assert (status, document["error"]["code"]) == (400, "InvalidParameter")
    del many["_many0"]
    assert (await patch(azure, section(USER, **many)))[0] == 200
    assert len(azure.vm.identities) == 150


async def test_keys_are_compared_case_insensitively_and_returned_in_arms_form(azure: Azure) -> None:
    body = {"identity": {"type": USER, "userAssignedIdentities": {identity_id("1").upper(): {}}}}
    _, document = await patch(azure, body)
    (key,) = document["identity"]["userAssignedIdentities"]
    assert key == identity_id("1").replace("resourceGroups", "resourcegroups")
    assert document["identity"]["userAssignedIdentities"][key]["clientId"] == azure.one.client_id


async def test_a_narrower_type_detaches_the_excluded_identities(azure: Azure) -> None:
    azure.vm.system_assigned, azure.vm.types = azure.three, frozenset({SYSTEM})
    await patch(azure, section(f"{SYSTEM}, {USER}", _1={}))
    assert azure.vm.document()["identity"]["type"] == "SystemAssigned, UserAssigned"
    assert (await patch(azure, section(USER, _1=None)))[0] == 400, "the last identity needs a type without it"
    await patch(azure, section(SYSTEM, _1=None))
    assert azure.vm.identities == frozenset()
    assert azure.vm.document()["identity"]["type"] == SYSTEM
    await patch(azure, section(NONE))
    assert "identity" not in azure.vm.document()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (section("Sometimes", _1={}), "InvalidIdentityType"),
        (section("None, UserAssigned", _1={}), "InvalidIdentityType"),
        (section(SYSTEM, _1={}), "InvalidIdentityType"),
        (section(USER), "InvalidParameter"),
        (section(USER, _1="yes"), "InvalidIdentityValues"),
        (section(USER, _4={}), "FailedIdentityOperation"),
    ],
    ids=["unknown-type", "none-and-another", "system-with-map", "user-without-map", "odd-value", "unknown-identity"],
)
async def test_a_refused_update_changes_nothing(azure: Azure, body: object, code: str) -> None:
    status, document = await patch(azure, body)
    assert (status, document["error"]["code"]) == (400, code)
    assert azure.vm.identities == frozenset()


async def test_marked_identities_are_named_in_the_refusal(azure: Azure) -> None:
    azure.arm.marked.unauthorized.add(identity_id("2").lower())
    azure.arm.marked.failing.add(identity_id("3").lower())
    status, document = await patch(azure, section(USER, _1={}, _2={}))
    assert (status, document["error"]["code"]) == (403, "LinkedAuthorizationFailed")
    assert f"'{identity_id('2')}'" in document["error"]["message"]
    status, document = await patch(azure, section(USER, _1={}, _3={}))
    assert (status, document["error"]["code"]) == (400, "FailedIdentityOperation")
    assert f"'{identity_id('3')}'" in document["error"]["message"]
    assert (await patch(azure, section(USER, _1={})))[0] == 200


async def test_without_a_role_a_refusal_names_the_principal_and_the_action(azure: Azure) -> None:
    azure.arm.set_condition("no-role")
    for method, action in (("GET", "read"), ("PATCH", "write")):
        status, document, _ = await azure.call_arm(method, VM, ADD if method == "PATCH" else None)
        assert (status, document["error"]["code"]) == (403, "AuthorizationFailed")
        assert document["error"]["message"].startswith(
            f"The client '{azure.controller.object_id}' with object id '{azure.controller.object_id}' does not have "
            f"authorization to perform action 'Microsoft.Compute/virtualMachines/{action}' over scope '{VM}'"
        )
    azure.arm.set_condition("")
    assert (await azure.call_arm("PATCH", VM, ADD))[0] == 200


async def test_without_its_vm_a_machine_is_neither_read_nor_listed(azure: Azure) -> None:
    azure.arm.set_condition("no-vm")
    status, document, _ = await azure.call_arm("GET", VM)
    assert (status, document["error"]["code"]) == (404, "ResourceNotFound")
    assert "'Microsoft.Compute/virtualMachines/vm-0' under resource group 'MC_demo'" in document["error"]["message"]
    assert (await azure.call_arm("GET", f"{COMPUTE}/virtualMachines"))[1] == {"value": []}
    azure.arm.set_condition("")
    assert (await azure.call_arm("GET", VM))[0] == 200


async def test_without_identities_an_update_that_names_one_fails_and_a_detachment_does_not(azure: Azure) -> None:
    await patch(azure, section(USER, _1={}, _2={}))
    azure.clock.now += 1
    azure.arm.set_condition("no-identity")
    status, document = await patch(azure, section(USER, _3={}))
    assert (status, document["error"]["code"]) == (400, "FailedIdentityOperation")
    assert f"Resource '{identity_id('3')}' was not found." in document["error"]["message"]
    assert (await patch(azure, section(USER, _1=None)))[0] == 200
    azure.clock.now += 1
    azure.arm.set_condition("")
    assert (await patch(azure, section(USER, _3={})))[0] == 200


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


async def test_older_api_versions_have_their_own_forms_and_one_is_required(azure: Azure) -> None:
    azure.arm.login_url = azure.aad.url
    old = await metadata(azure, "2015-01-01")
    assert old["authentication"]["loginEndpoint"] == f"{azure.aad.url}/"
    (cloud,) = await metadata(azure, "2019-05-01")
    assert cloud["resourceManager"] == azure.arm.url
    async with azure.session.get(f"{azure.arm.url}/metadata/endpoints") as response:
        assert response.status == 400


@pytest.mark.parametrize("path", ["/subscriptions", "/tenants", f"/subscriptions/{SUBSCRIPTION}/resourcegroups"])
async def test_everything_else_needs_a_token(azure: Azure, path: str) -> None:
    assert (await azure.call_arm("GET", path, token=""))[0] == 401
    assert (await azure.call_arm("GET", path))[0] == 200


async def test_a_caller_with_a_role_finds_the_subscription_and_its_groups(azure: Azure) -> None:
    (subscription,) = (await azure.call_arm("GET", "/subscriptions"))[1]["value"]
    assert (subscription["subscriptionId"], subscription["tenantId"]) == (SUBSCRIPTION, azure.directory.tenant_id)
    assert subscription["state"] == "Enabled"
    assert (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION.upper()}"))[1] == subscription
    (group,) = (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups"))[1]["value"]
    assert group["name"] == GROUP
    assert (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP.lower()}"))[1] == group


async def test_a_caller_without_a_role_finds_its_tenant_only(azure: Azure) -> None:
    mine = azure.token(azure.one)
    assert (await azure.call_arm("GET", "/subscriptions", token=mine))[1] == {"value": []}
    assert (await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}", token=mine))[0] == 404
    (tenant,) = (await azure.call_arm("GET", "/tenants", token=mine))[1]["value"]
    assert tenant["tenantId"] == azure.directory.tenant_id


async def test_an_unknown_subscription_or_group_is_not_found_and_none_is_changed(azure: Azure) -> None:
    assert (await azure.call_arm("DELETE", f"/subscriptions/{SUBSCRIPTION}"))[0] == 404
    status, document, _ = await azure.call_arm("GET", "/subscriptions/00000000-0000-0000-0000-000000000000")
    assert (status, document["error"]["code"]) == (404, "SubscriptionNotFound")
    status, document, _ = await azure.call_arm("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/other")
    assert (status, document["error"]["code"]) == (404, "ResourceGroupNotFound")
