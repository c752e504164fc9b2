"""Records in a lock's object: the Lease's spec, and the annotation in client-go's format. Pure."""

import json
from datetime import UTC, datetime

import pytest

from podidentity.kube.lock_records import LEADER_ANNOTATION, UNREADABLE, AnnotationFormat, LeaseFormat, LockRecord

NOW = datetime(2024, 5, 6, 7, 8, 9, 120_000, tzinfo=UTC)
WRITTEN_BY_CLIENT_GO = (
    '{"holderIdentity":"mic-76d_7f","leaseDurationSeconds":15,"acquireTime":"2024-05-01T00:00:00Z",'
    '"renewTime":"2024-05-06T07:00:00Z","leaderTransitions":3}'
)


def endpoints(annotation: str | None) -> dict[str, object]:
    annotations = {"other": "kept"} | ({} if annotation is None else {LEADER_ANNOTATION: annotation})
    return {"metadata": {"name": "mic", "resourceVersion": "7", "annotations": annotations}, "subsets": [1]}


def test_client_gos_record_is_read() -> None:
    record = AnnotationFormat().read(endpoints(WRITTEN_BY_CLIENT_GO))
    assert (record.holder, record.duration_seconds, record.renewed) == ("mic-76d_7f", 15, "2024-05-06T07:00:00Z")


@pytest.mark.parametrize(
    "document",
    [
        endpoints(None),
        endpoints(""),
        {"metadata": {"name": "mic"}},
        {"metadata": {"name": "mic", "annotations": None}},
        endpoints('{"holderIdentity":"","leaseDurationSeconds":1,"acquireTime":null,"renewTime":null}'),
    ],
)
def test_an_object_without_a_holder_is_free(document: dict[str, object]) -> None:
    assert AnnotationFormat().read(document).holder == ""


@pytest.mark.parametrize("text", ["{", "[]", "null", '"holder"', "\ud800", "[" * 60_000, '{"a":' * 60_000])
def test_an_unreadable_record_counts_as_held(text: str) -> None:
    assert AnnotationFormat().read(endpoints(text)) == LockRecord(UNREADABLE)


@pytest.mark.parametrize(
    "field",
    [
        '"leaseDurationSeconds":' + "9" * 400,
        '"leaseDurationSeconds":9999999999',
        '"leaderTransitions":' + "9" * 400,
        '"leaderTransitions":-1',
        '"renewTime":' + "[" * 900 + "]" * 900,
        '"renewTime":"' + "x" * 10_000 + '"',
        '"other":' + '{"a":' * 900 + "1" + "}" * 900,
    ],
    ids=lambda field: field[:24],
)
def test_unexpected_values_in_a_record_do_not_prevent_reading_or_acquiring_it(field: str) -> None:
    form, before = AnnotationFormat(), endpoints('{"holderIdentity":"other",' + field + "}")
    record = form.read(before)
    assert record.holder == "other"
    assert record.duration_seconds is None
    taken = form.read(form.written(before, record, "mic", 15, NOW, acquire=True))
    assert (taken.holder, taken.duration_seconds) == ("mic", 15)
    assert json.loads(json.dumps(taken.fields))["leaderTransitions"] == 1


def test_a_renewal_keeps_all_other_fields_of_the_object() -> None:
    form, before = AnnotationFormat(), endpoints(WRITTEN_BY_CLIENT_GO.replace('"holder', '"strategy":"x","holder'))
    after = form.written(before, form.read(before), "mic-76d_7f", 15, NOW, acquire=False)
    assert after["subsets"] == [1]
    assert after["metadata"]["resourceVersion"] == "7"
    assert after["metadata"]["annotations"]["other"] == "kept"
    record = json.loads(after["metadata"]["annotations"][LEADER_ANNOTATION])
    assert record == {
        "strategy": "x",
        "holderIdentity": "mic-76d_7f",
        "leaseDurationSeconds": 15,
        "acquireTime": "2024-05-01T00:00:00Z",
        "renewTime": "2024-05-06T07:08:09.120000Z",
        "leaderTransitions": 3,
    }


@pytest.mark.parametrize(
    ("annotation", "transitions"), [(WRITTEN_BY_CLIENT_GO, 4), (None, 0), ("{", 0), ('{"leaderTransitions":"x"}', 1)]
)
def test_a_change_of_the_holder_is_counted(annotation: str | None, transitions: int) -> None:
    form, before = AnnotationFormat(), endpoints(annotation)
    after = form.written(before, form.read(before), "ours", 15, NOW, acquire=True)
    record = json.loads(after["metadata"]["annotations"][LEADER_ANNOTATION])
    assert (record["leaderTransitions"], record["acquireTime"]) == (transitions, "2024-05-06T07:08:09.120000Z")


def test_a_lease_stores_its_record_in_its_spec() -> None:
    form = LeaseFormat()
    fresh = form.written({"metadata": {"name": "mic"}}, LockRecord(), "ours", 15, NOW, acquire=True)
    assert fresh["spec"]["leaseTransitions"] == 0
    assert form.read(fresh).holder == "ours"
    assert form.read({"metadata": {}, "spec": {"leaseDurationSeconds": -1}}).duration_seconds is None
