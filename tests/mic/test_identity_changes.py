"""Changes of a host's identities as requests to Azure: their content, and the version on which a change depends."""

import json

import pytest

from mic.azure.identities import BOTH, MOST_IN_ONE_UPDATE, SYSTEM, Attached, HostIdentities, change, decode_identities
from tests.support.objects import identity_id


def host(*names: str, type_: str = "UserAssigned", etag: str = '"7"') -> HostIdentities:
    ids = [identity_id(name) for name in names]
    return HostIdentities(type=type_, attached={each.lower(): Attached(each) for each in ids}, etag=etag)


def test_only_the_difference_is_sent_with_null_for_removals() -> None:
    planned = change(host("old", "stays"), [identity_id("new"), identity_id("stays")], [identity_id("old")])
    assert planned is not None
    assert json.loads(planned.body()) == {
        "identity": {
            "type": "UserAssigned",
            "userAssignedIdentities": {identity_id("new"): {}, identity_id("old"): None},
        }
    }
    assert planned.etag == ""


def test_an_identity_that_is_already_attached_or_detached_requires_no_change() -> None:
    assert change(host("here"), [identity_id("HERE")], [identity_id("elsewhere")]) is None


def test_a_removal_uses_azures_spelling_of_the_id() -> None:
    planned = change(host("Old", "stays"), [], [identity_id("Old").upper()])
    assert planned is not None
    assert planned.removes == (identity_id("Old"),)


@pytest.mark.parametrize(
    ("before", "left"), [("UserAssigned", "None"), (BOTH, SYSTEM), ("systemassigned,userassigned", SYSTEM)]
)
def test_removing_the_last_identity_narrows_the_type_for_the_version_that_was_read_only(before: str, left: str) -> None:
    planned = change(host("last", type_=before), [], [identity_id("last")])
    assert planned is not None
    assert planned.etag == '"7"'
    assert json.loads(planned.body()) == {"identity": {"type": left}}


@pytest.mark.parametrize(("before", "after"), [("None", "UserAssigned"), (SYSTEM, BOTH), ("", "UserAssigned")])
def test_adding_the_first_identity_keeps_the_system_assigned_one(before: str, after: str) -> None:
    planned = change(host(type_=before), [identity_id("first")], [])
    assert planned is not None
    assert (planned.type, planned.etag) == (after, '"7"')


def test_a_type_that_differs_only_in_spelling_is_not_changed() -> None:
    planned = change(host("here", type_="SystemAssigned,UserAssigned"), [identity_id("new")], [])
    assert planned is not None
    assert planned.etag == ""


def test_one_update_contains_at_most_the_number_that_azure_accepts() -> None:
    many = [identity_id(f"id{number}") for number in range(MOST_IN_ONE_UPDATE + 10)]
    planned = change(host("old"), many, [identity_id("old")])
    assert planned is not None
    assert (len(planned.adds), len(planned.removes)) == (MOST_IN_ONE_UPDATE, 0)


def test_a_host_without_an_identity_part_has_no_identities() -> None:
    assert decode_identities({"properties": {"provisioningState": "Updating"}}).updating
    assert decode_identities({}) == HostIdentities()
