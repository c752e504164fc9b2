"""Reports of objects that MIC ignores, and their limit."""

from typing import Any

import pytest
from typing_extensions import override

from mic.cluster.ignored_objects import OMISSION, REPORTS, IgnoredObjects
from podidentity.kube.events import EventRecorder
from podidentity.kube.object_reports import GROUP_SHARE
from podidentity.resources import Kind, Resource
from podidentity.telemetry.token_bucket import GROUPS_MAX
from tests.support.objects import binding, identity


class Recorder(EventRecorder):
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str]] = []

    @override
    def record(self, regarding: Resource, kind: Kind[Any], type: str, reason: str, message: str) -> None:
        assert type == "Warning"
        self.events.append((kind.name, "/".join(regarding.key), reason, message))


class RecordedEvents:
    def __init__(self) -> None:
        self.recorder = Recorder()
        self.now = 0.0
        self.counted = 0
        self.ignored = IgnoredObjects(self.recorder, self.count, clock=lambda: self.now)

    def count(self) -> None:
        self.counted += 1


def test_each_ignored_object_has_an_event_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    recorded = RecordedEvents()
    recorded.ignored.identity(identity("bad"), "spec.type 9 is none")
    recorded.ignored.binding(binding("much"), "there are too many")
    assert recorded.recorder.events == [
        ("AzureIdentity", "default/bad", "invalid identity", "spec.type 9 is none"),
        ("AzureIdentityBinding", "default/much", "binding ignored", "there are too many"),
    ]
    assert len(caplog.records) == 2
    assert recorded.counted == 2


def test_a_namespace_with_many_ignored_objects_leaves_events_to_others(caplog: pytest.LogCaptureFixture) -> None:
    recorded = RecordedEvents()
    for number in range(10_000):
        recorded.ignored.binding(binding(f"b{number}", namespace="evil"), "no")
    assert len(recorded.recorder.events) == REPORTS.burst * GROUP_SHARE
    recorded.ignored.identity(identity("bad"), "no")
    assert recorded.recorder.events[-1][1] == "default/bad"
    assert recorded.counted == 10_001
    lines = [vars(each).get("reason") or each.message for each in caplog.records]
    assert lines == ["no"] * int(REPORTS.burst * GROUP_SHARE) + [OMISSION, "no"]


def test_an_ignored_object_is_reported_again_later() -> None:
    recorded = RecordedEvents()
    for _ in range(1000):
        recorded.ignored.binding(binding(namespace="evil"), "no")
    before = len(recorded.recorder.events)
    recorded.now += 60.0
    recorded.ignored.binding(binding(namespace="evil"), "no")
    assert len(recorded.recorder.events) == before + 1


def test_many_namespaces_together_are_limited_too() -> None:
    recorded = RecordedEvents()
    for number in range(3 * GROUPS_MAX):
        recorded.ignored.binding(binding(namespace=f"evil{number}"), "no")
    assert len(recorded.recorder.events) == REPORTS.burst
