"""The body of a change as it goes over the wire, and when it is tied to the version that was read."""

import json

import pytest

from mic.azure.identities import BOTH, MOST_IN_ONE_UPDATE, SYSTEM, Attached, HostIdentities, change, read
from tests.mic.cluster import identity_id


def host(*names: str, type_: str = "UserAssigned", etag: str = '"7"') -> HostIdentities:
    ids = [identity_id(name) for name in names]
    return HostIdentities(type=type_, attached={each.lower(): Attached(each) for each in ids}, etag=etag)


def test_only_the_difference_is_sent_with_null_for_what_goes() -> None:
    planned = change(host("old", "stays"), [identity_id("new"), identity_id("stays")], [identity_id("old")])
    assert planned is not None
    assert json.loads(planned.body()) == {
        "identity": {
            "type": "UserAssigned",
            "userAssignedIdentities": {identity_id("new"): {}, identity_id("old"): None},
        }
    }
    assert planned.etag == ""


def test_what_is_there_or_gone_already_needs_no_change() -> None:
    assert change(host("here"), [identity_id("HERE")], [identity_id("elsewhere")]) is None


def test_a_removal_is_spelled_as_azure_spells_it() -> None:
    planned = change(host("Old", "stays"), [], [identity_id("Old").upper()])
    assert planned is not None
    assert planned.removes == (identity_id("Old"),)


@pytest.mark.parametrize(
    ("before", "left"), [("UserAssigned", "None"), (BOTH, SYSTEM), ("systemassigned,userassigned", SYSTEM)]
)
def test_removing_the_last_one_narrows_the_type_and_is_tied_to_what_was_read(before: str, left: str) -> None:
    planned = change(host("last", type_=before), [], [identity_id("last")])
    assert planned is not None
    assert planned.etag == '"7"'
    assert json.loads(planned.body()) == {"identity": {"type": left}}


@pytest.mark.parametrize(("before", "after"), [("None", "UserAssigned"), (SYSTEM, BOTH), ("", "UserAssigned")])
def test_adding_the_first_one_keeps_the_system_assigned_identity(before: str, after: str) -> None:
    planned = change(host(type_=before), [identity_id("first")], [])
    assert planned is not None
    assert (planned.type, planned.etag) == (after, '"7"')


def test_a_type_that_is_only_spelled_otherwise_does_not_change() -> None:
    planned = change(host("here", type_="SystemAssigned,UserAssigned"), [identity_id("new")], [])
    assert planned is not None
    assert planned.etag == ""


def test_one_update_holds_at_most_what_azure_takes() -> None:
    many = [identity_id(f"id{number}") for number in range(MOST_IN_ONE_UPDATE + 10)]
    planned = change(host("old"), many, [identity_id("old")])
    assert planned is not None
    assert (len(planned.adds), len(planned.removes)) == (MOST_IN_ONE_UPDATE, 0)


def test_a_host_without_any_identity_part_is_read_as_having_none() -> None:
    assert read({"properties": {"provisioningState": "Updating"}}).updating
    assert read({}) == HostIdentities()
