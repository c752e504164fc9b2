"""Skipped objects are all counted; log lines, tracebacks and Events of them are bounded."""

import logging
from typing import Any

import pytest

from podidentity.kube.decoding import Malformed, TooDeep, TooLarge, TooLong
from podidentity.kube.object_reports import EVENTS, GROUP_SHARE, LINES, REMEMBERED_MAX
from podidentity.kube.skipped import SkippedObjects, reason_of
from podidentity.resources import EXCEPTIONS, BareMeta, Resource

Recorded = tuple[str, str, str, str]


class Events:
    def __init__(self) -> None:
        self.recorded: list[Recorded] = []

    def record(self, regarding: Resource, kind: Any, type_: str, reason: str, message: str) -> None:
        self.recorded.append((regarding.metadata.name, kind.name, f"{type_} {reason}", message))


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def skipped(events: Events, clock: list[float]) -> SkippedObjects:
    made = SkippedObjects(lambda: clock[0])
    made.record_with(events.record)
    return made


def meta(name: str, version: str = "1", namespace: str = "team") -> BareMeta:
    return BareMeta(name=name, namespace=namespace, uid=f"uid-{name}", resource_version=version)


def test_the_event_names_kind_and_cause(skipped: SkippedObjects, events: Events) -> None:
    skipped.report(EXCEPTIONS, meta("a"), TooLarge("it has 9 bytes of JSON, and the limit is 8"))
    ((*about, message),) = events.recorded
    assert about == ["a", "AzurePodIdentityException", "Warning ObjectSkipped"]
    cause = "it has 9 bytes of JSON, and the limit is 8"
    assert message == f"This AzurePodIdentityException is ignored and treated as absent: {cause}"


def test_one_version_of_an_object_is_reported_once_and_counted_each_time(
    skipped: SkippedObjects, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for version in ("1", "1", "1", "2"):
            skipped.report(EXCEPTIONS, meta("a", version), TooLong("spec.podLabels is too large"))
    assert len(events.recorded) == len(caplog.records) == 2
    assert skipped.counts == {("azurepodidentityexceptions", "limits"): 4}


def test_many_objects_are_reported_up_to_an_hourly_limit(
    skipped: SkippedObjects, events: Events, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    number = REMEMBERED_MAX + 1000
    with caplog.at_level(logging.WARNING):
        for each in range(number):
            skipped.report(EXCEPTIONS, meta(str(each), namespace=f"team-{each % 8}"), Malformed("no"))
        assert len(events.recorded) == EVENTS.burst
        assert len(caplog.records) == LINES.burst + 1
        clock[0] += 3600
        for each in range(number):
            skipped.report(EXCEPTIONS, meta(f"later-{each}", namespace=f"team-{each % 8}"), Malformed("no"))
    assert len(events.recorded) == 2 * EVENTS.burst
    assert len(caplog.records) <= 2 * (LINES.burst + 1)
    assert skipped.counts == {("azurepodidentityexceptions", "unreadable"): 2 * number}
    assert len(skipped._reported._versions) == REMEMBERED_MAX


def test_a_namespace_with_many_skipped_objects_hides_no_other_namespaces(
    skipped: SkippedObjects, events: Events, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for each in range(1000):
            skipped.report(EXCEPTIONS, meta(f"hostile-{each}", namespace="hostile"), Malformed("no"))
        assert len(events.recorded) == EVENTS.burst * GROUP_SHARE
        skipped.report(EXCEPTIONS, meta("other"), Malformed("no"))
    assert events.recorded[-1][0] == "other"
    assert "team/other" in vars(caplog.records[-1])["resource"]
    clock[0] += 3600
    for each in range(1000):
        skipped.report(EXCEPTIONS, meta(f"later-{each}", namespace="hostile"), Malformed("no"))
    assert len(events.recorded) == 2 * EVENTS.burst * GROUP_SHARE + 1


def test_the_traceback_of_one_kind_of_failure_is_logged_once(
    skipped: SkippedObjects, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "c"):
            try:
                raise KeyError("what was in it")  # noqa: TRY301
            except KeyError as error:
                skipped.report(EXCEPTIONS, meta(name), error)
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False]
    assert "what was in it" not in events.recorded[0][3]


def test_an_object_without_a_name_has_no_event(skipped: SkippedObjects, events: Events) -> None:
    skipped.report(EXCEPTIONS, BareMeta(), Malformed("no"))
    assert not events.recorded
    assert sum(skipped.counts.values()) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooLarge(""), "size"),
        (TooDeep(""), "depth"),
        (TooLong(""), "limits"),
        (Malformed(""), "unreadable"),
        (RecursionError(), "handler"),
    ],
)
def test_each_error_has_its_skip_reason(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
