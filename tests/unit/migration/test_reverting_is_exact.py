"""Rollbacks restore every changed field, except fields that were changed since."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidctl.migration.federation.json_patches import (
    FORMER_ANNOTATION,
    PUT_ANNOTATION,
    UnpatchableError,
    put_patch,
    recorded_identity,
    removal_patch,
    rollback_patch,
    switch_patch,
)
from podidentity_sandbox.kubeapi.patching import json_patch
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.migration.objects import identity

TENANT = "72f988bf-0000-0000-0000-2d7cd011db47"
LABELS = ("spec", "template", "metadata", "labels")
ANNOTATIONS = ("metadata", "annotations")
names = st.text(min_size=1, max_size=8)
texts = st.dictionaries(names, st.text(max_size=8), max_size=4)
specs = st.dictionaries(names | st.sampled_from(["tenantID", "clientID", "adEndpoint"]), st.text(max_size=8)).map(
    lambda spec: {"type": 0, **spec}
)


def stored(document: dict[str, Any], **meta: Any) -> dict[str, Any]:
    made = copy.deepcopy(document)
    made["metadata"] |= {"uid": "u", "resourceVersion": "7", **meta}
    return made


def without_empty(document: dict[str, Any]) -> dict[str, Any]:
    """An empty map and none are one thing to the API server."""
    meta = {name: value for name, value in document["metadata"].items() if value != {}}
    return {**document, "metadata": meta}


DEMO = stored(identity())


def test_a_switched_identity_is_marked_and_keeps_all_other_fields() -> None:
    made = json_patch(DEMO, switch_patch(DEMO, TENANT))
    assert made["spec"] == {**DEMO["spec"], "type": 3, "tenantID": TENANT}
    assert json.loads(made["metadata"]["annotations"][FORMER_ANNOTATION]) == {"spec": DEMO["spec"], "tenantID": TENANT}


@given(specs, texts | st.none())
def test_reverting_restores_the_former_state(spec: dict[str, Any], annotations: dict[str, str] | None) -> None:
    meta = {"name": "demo", "namespace": "shop", "uid": "u", "resourceVersion": "7"}
    before = {"metadata": {**meta, **({} if annotations is None else {"annotations": annotations})}, "spec": spec}
    try:
        operations = switch_patch(before, TENANT)
    except UnpatchableError:  # field spellings from before v1.6.0
        return
    after = json_patch(before, operations)
    way = rollback_patch(after)
    assert way.kept == ()
    assert without_empty(json_patch(after, way.operations)) == without_empty(before)


def test_a_later_change_by_another_writer_is_kept_and_reported_and_of_the_type_refused() -> None:
    made = json_patch(DEMO, switch_patch(DEMO, TENANT))
    made["spec"] |= {"clientID": "another", "adEndpoint": "https://login.microsoftonline.us/"}
    del made["spec"]["resourceID"]  # which type 3 does not need
    way = rollback_patch(made)
    assert way.kept == ("adEndpoint", "clientID")
    spec = json_patch(made, way.operations)["spec"]
    assert (spec["type"], spec["clientID"], spec["resourceID"]) == (0, "another", DEMO["spec"]["resourceID"])
    assert "tenantID" not in spec
    made["spec"]["type"] = 1
    with pytest.raises(UnpatchableError, match="it was set to type 1 since"):
        rollback_patch(made)


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"spec": {"type": 1}, "tenantID": "t"}', "[" * 9000, '{"spec": 1}'])
def test_an_unreadable_note_reverts_nothing(note: str) -> None:
    made = stored(identity(type=3), annotations={FORMER_ANNOTATION: note})
    with pytest.raises(UnpatchableError, match="manually"):
        rollback_patch(made)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (identity(type=3, tenantID=TENANT), "not of type 0 any more"),
        ({**identity(), "spec": {"type": 0, "clientid": "c"}}, "field spellings from before v1.6.0"),
        ({**identity(), "spec": None}, "has no spec"),
    ],
)
def test_an_identity_that_is_a_different_one_now_is_left_alone(document: dict[str, Any], why: str) -> None:
    with pytest.raises(UnpatchableError, match=why):
        switch_patch(stored(document), TENANT)


@pytest.mark.parametrize("change", [{"uid": "v"}, {"resourceVersion": "8"}])
def test_no_patch_applies_to_an_object_that_changed_after_the_read(change: dict[str, str]) -> None:
    other = stored(identity(), **change)
    with pytest.raises(StatusError):
        json_patch(other, switch_patch(DEMO, TENANT))


@pytest.mark.parametrize("path", [LABELS, ANNOTATIONS])
@given(values=st.dictionaries(names, st.text(max_size=8), min_size=1, max_size=3), there=texts)
def test_added_fields_are_removed(path: tuple[str, ...], values: dict[str, str], there: dict[str, str]) -> None:
    before = stored({"metadata": {"name": "web"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}}}}})
    place = before["spec"]["template"]["metadata"]["labels"] if path == LABELS else before["metadata"]
    place.update(there if path == LABELS else {"annotations": there})
    made = json_patch(before, put_patch(before, "shop/demo", path, values))
    assert recorded_identity(made["metadata"]["annotations"]) == "shop/demo"
    again = json_patch(made, put_patch(made, "shop/demo", path, values))
    for each in (made, again):
        assert without_empty(json_patch(each, removal_patch(each, path))) == without_empty(before)


def test_a_label_changed_by_another_writer_stays() -> None:
    before = stored({"metadata": {"name": "web"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}}}}})
    made = json_patch(before, put_patch(before, "shop/demo", LABELS, {"use": "true"}))
    made["spec"]["template"]["metadata"]["labels"]["use"] = "false"
    after = json_patch(made, removal_patch(made, LABELS))
    assert after["spec"]["template"]["metadata"]["labels"] == {"app": "web", "use": "false"}
    assert PUT_ANNOTATION not in after["metadata"].get("annotations", {})


@pytest.mark.parametrize("note", ["", "1", '{"identity": "a", "put": {"a": 1}, "before": {}}'])
def test_an_unreadable_mark_requires_manual_work(note: str) -> None:
    with pytest.raises(UnpatchableError, match="manually"):
        removal_patch(stored({"metadata": {"annotations": {PUT_ANNOTATION: note}}}), ANNOTATIONS)
