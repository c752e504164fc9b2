"""Skipped objects and ignored fields are reported once for each version of an object, within limits, and counted.

Log lines, tracebacks and Events are bounded.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from podidentity.kube import ignored_fields
from podidentity.kube import skipped as skipped_objects
from podidentity.kube.client import Client
from podidentity.kube.decoding import Malformed, TooDeep, TooLarge, TooLong
from podidentity.kube.ignored_fields import IgnoredFields
from podidentity.kube.informer import Informer
from podidentity.kube.object_reports import EVENTS, GROUP_SHARE, LINES, REMEMBERED_MAX
from podidentity.kube.skipped import SkippedObjects, reason_of
from podidentity.resources import EXCEPTIONS, AzurePodIdentityException, BareMeta, Resource
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import ScriptedServer, page

Report = Callable[[BareMeta], None]


class Events:
    def __init__(self) -> None:
        self.recorded: list[tuple[str, str, str, str]] = []

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


@pytest.fixture
def ignored(events: Events, clock: list[float]) -> IgnoredFields:
    made = IgnoredFields(lambda: clock[0])
    made.record_with(events.record)
    return made


@pytest.fixture(params=["skipped", "ignored"])
def report(request: pytest.FixtureRequest, skipped: SkippedObjects, ignored: IgnoredFields) -> Report:
    """Reports an object that is skipped, or one with an ignored field."""
    if request.param == "skipped":
        return lambda about: skipped.report(EXCEPTIONS, about, TooLong("spec.podLabels is too large"))
    return lambda about: ignored.report(EXCEPTIONS, about, ("spec.PodLabels",))


def meta(name: str, version: str = "1", namespace: str = "team") -> BareMeta:
    return BareMeta(name=name, namespace=namespace, uid=f"uid-{name}", resource_version=version)


def test_the_event_names_kind_and_cause(skipped: SkippedObjects, events: Events) -> None:
    skipped.report(EXCEPTIONS, meta("a"), TooLarge("it has 9 bytes of JSON, and the limit is 8"))
    ((*about, message),) = events.recorded
    assert about == ["a", "AzurePodIdentityException", "Warning ObjectSkipped"]
    cause = "it has 9 bytes of JSON, and the limit is 8"
    assert message == f"This AzurePodIdentityException is ignored and treated as absent: {cause}"


def test_the_event_names_the_fields_and_the_remedy(ignored: IgnoredFields, events: Events) -> None:
    ignored.report(EXCEPTIONS, meta("a"), ("spec.PodLabels",))
    ((*about, message),) = events.recorded
    assert about == ["a", "AzurePodIdentityException", "Warning FieldsIgnored"]
    assert message == (
        "Ignored fields, spelled as before v1.6.0: spec.PodLabels; write them as kubectl explain shows them "
        "(podidctl migrate from-reference -f rewrites manifests)"
    )


def test_one_version_of_an_object_is_reported_once(
    report: Report, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "1", "1", "2"):
        report(meta("a", version))
    assert len(events.recorded) == len(caplog.records) == 2


def test_each_report_of_one_version_of_a_skipped_object_is_counted(skipped: SkippedObjects) -> None:
    for version in ("1", "1", "1", "2"):
        skipped.report(EXCEPTIONS, meta("a", version), Malformed("no"))
    assert skipped.counts == {("azurepodidentityexceptions", "unreadable"): 4}


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


def test_a_namespace_with_many_such_objects_leaves_lines_and_events_to_others(
    report: Report, events: Events, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        report(meta(f"hostile-{number}", namespace="hostile"))
    assert len(events.recorded) == EVENTS.burst * GROUP_SHARE
    report(meta("other"))
    assert events.recorded[-1][0] == "other"
    lines = [vars(each)["resource"] for each in caplog.records if "resource" in vars(each)]
    assert lines[-1] == "azurepodidentityexceptions team/other"
    assert len(lines) == LINES.burst * GROUP_SHARE + 1
    (omission,) = [each.message for each in caplog.records if "resource" not in vars(each)]
    assert omission in {ignored_fields.OMISSION, skipped_objects.OMISSION}
    clock[0] += 3600
    for number in range(1000):
        report(meta(f"later-{number}", namespace="hostile"))
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


async def test_an_informer_reports_objects_of_its_lists_and_watches(
    server: ScriptedServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    recorder: Recorder[AzurePodIdentityException] = Recorder()
    server.lists.append(page(exception("listed", "1"), exception("fine", "2", name="podLabels"), version="7"))
    with caplog.at_level(logging.WARNING, ignored_fields.__name__):
        task = asyncio.create_task(Informer(client, EXCEPTIONS, recorder, random=lambda: 0.0).run())
        (await server.watch()).send("ADDED", exception("watched", "8"))
        await recorder.received("+listed 1", "+fine 2", "+watched 8")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    lines = [vars(each)["resource"] for each in caplog.records if each.name == ignored_fields.__name__]
    assert lines == ["azurepodidentityexceptions ns/listed", "azurepodidentityexceptions ns/watched"]


def exception(name_: str, version: str, *, name: str = "PodLabels") -> dict[str, Any]:
    metadata = {"name": name_, "namespace": "ns", "uid": name_, "resourceVersion": version}
    return {"metadata": metadata, "spec": {name: {"app": "x"}}}
