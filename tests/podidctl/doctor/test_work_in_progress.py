"""Recent assignments are in progress and not a problem; overdue ones are a problem."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from podidctl.doctor.assignments import GRACE_SECONDS
from podidctl.doctor.creation_times import DatedCondition as Told
from podidctl.doctor.creation_times import DatedMeta, DatedPod, DatedStatus, creation_time
from podidctl.doctor.schema import Level, Report
from podidctl.doctor.state import ObjectReference, Objects, ServerState
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, PODS
from tests.podidctl.doctor_inputs import NOW, bad, examined, objects, one
from tests.support.nmi_objects import assigned_identity

POD = ObjectReference(PODS.plural, "ns", "web")
BINDING = ObjectReference(BINDINGS.plural, "ns", "b")
IDENTITY = ObjectReference(IDENTITIES.plural, "ns", "id")
CREATED = assigned_identity(status="Created")
OLD = GRACE_SECONDS + 1


def aged(seconds: float, which: ObjectReference = POD, **changes: Any) -> Objects:
    """All objects are an hour old, except one, which is *seconds* old."""
    everything = (POD, BINDING, IDENTITY, ObjectReference(ASSIGNED_IDENTITIES.plural, *CREATED.key))
    ages = dict.fromkeys(everything, 3600.0) | {which: seconds}
    return objects(created_at={each: NOW - timedelta(seconds=age) for each, age in ages.items()}, **changes)


def progress(report: Report) -> list[str]:
    return [each.says for each in report.findings if "still in progress" in each.says]


@pytest.mark.parametrize("which", [POD, BINDING, IDENTITY], ids=["pod", "binding", "identity"])
def test_a_recent_unassigned_identity_is_in_progress_and_becomes_a_problem(which: ObjectReference) -> None:
    young = examined(objects=aged(5, which, assigned=()))
    assert bad(young) == []
    assert progress(young) == ["1 identity is still in progress: ns/web (ns/id)"]
    old = examined(objects=aged(OLD, which, assigned=()))
    assert one(old).level is Level.PROBLEM
    assert progress(old) == []


def test_a_recently_created_assignment_is_in_progress_and_not_counted_as_assigned() -> None:
    report = examined(objects=aged(5, ObjectReference(ASSIGNED_IDENTITIES.plural, *CREATED.key), assigned=(CREATED,)))
    assert bad(report) == []
    assert progress(report) == ["1 identity is still in progress: default/web-ns-id"]
    assert [each.says for each in report.findings if each.check == "assignments"][-1] == "0 assigned"
    assert one(examined(objects=aged(OLD, assigned=(CREATED,)))).level is Level.WARNING


def test_a_failure_that_mic_reported_is_reported_immediately() -> None:
    failed = assigned_identity(status="Created", own_annotations={"aadpodidentity.k8s.io/message": "grant the role"})
    assert one(examined(objects=aged(5, assigned=(failed,)))).says.endswith("grant the role")


def test_an_age_is_computed_with_the_api_servers_clock() -> None:
    ahead = ServerState("v1.31.0", 3600.0, 0.5)
    report = examined(objects=aged(5 - 3600.0, assigned=()), server=ahead)
    assert progress(report)
    assert not progress(examined(objects=aged(5 - 3600.0, assigned=())))


def test_a_pods_age_starts_when_it_is_scheduled() -> None:
    scheduled = Told(type="PodScheduled", last_transition_time="2026-01-01T11:59:55Z")
    one_hour = DatedMeta(name="web", namespace="ns", creation_timestamp="2026-01-01T11:00:00Z")
    pod = DatedPod(metadata=one_hour, status=DatedStatus(conditions=[scheduled]))
    assert pod.since == NOW - timedelta(seconds=5)
    assert DatedPod(metadata=one_hour).since == NOW - timedelta(hours=1)
    assert DatedPod(metadata=DatedMeta(creation_timestamp="yesterday")).since is None


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"metadata":{"creationTimestamp":null}}', b"[" * 5000], ids=["bare", "null", "deep"]
)
def test_an_object_without_a_date_has_no_age(raw: bytes) -> None:
    assert creation_time(msgspec.Raw(raw)) is None
