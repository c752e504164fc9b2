"""The merge of a PATCH's identity section in ARM, and its errors. Excluded: operations, roles, the real client."""

from typing import Any

import pytest

from podidentity_sandbox.machines import NONE, SYSTEM, USER
from tests.sandbox.azure.conftest import SET, VM, Azure, identity_id


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


async def test_a_patch_may_name_at_most_150_identities(azure: Azure) -> None:
    for number in range(151):
        azure.directory.add_identity(identity_id(f"many{number}"))
    many: dict[str, object] = {f"_many{number}": {} for number in range(151)}
    status, document = await patch(azure, section(USER, **many))
    assert (status, document["error"]["code"]) == (400, "InvalidParameter")
    del many["_many0"]
    assert (await patch(azure, section(USER, **many)))[0] == 200
    assert len(azure.vm.identities) == 150


async def test_keys_are_compared_case_insensitively_and_returned_in_arms_spelling(azure: Azure) -> None:
    body = {"identity": {"type": USER, "userAssignedIdentities": {identity_id("1").upper(): {}}}}
    _, document = await patch(azure, body)
    (key,) = document["identity"]["userAssignedIdentities"]
    assert key == identity_id("1").replace("resourceGroups", "resourcegroups")
    assert document["identity"]["userAssignedIdentities"][key]["clientId"] == azure.one.client_id


async def test_a_narrower_type_detaches_the_excluded_identities(azure: Azure) -> None:
    azure.vm.system_assigned, azure.vm.types = azure.three, frozenset({SYSTEM})
    await patch(azure, section(f"{SYSTEM}, {USER}", _1={}))
    assert azure.vm.document()["identity"]["type"] == "SystemAssigned, UserAssigned"
    await patch(azure, section(SYSTEM, _1=None))
    assert azure.vm.identities == frozenset()
    assert azure.vm.document()["identity"]["type"] == SYSTEM
    await patch(azure, section(NONE))
    assert "identity" not in azure.vm.document()


async def test_a_patch_without_type_keeps_the_type(azure: Azure) -> None:
    await patch(azure, section(USER, _1={}))
    await patch(azure, section(None, _2={}))
    assert len(azure.vm.identities) == 2


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


async def test_removing_the_last_identity_requires_a_type_without_user_assigned(azure: Azure) -> None:
    await patch(azure, section(USER, _1={}))
    assert (await patch(azure, section(USER, _1=None)))[0] == 400
    assert (await patch(azure, section(NONE)))[0] == 200
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
