"""Objects that MIC ignores, such as mirror pods: no assignments, and reports up to a limit."""

from typing import Any

import pytest
from typing_extensions import override

from mic.cluster import ignored_objects, mirror_pods
from mic.cluster.ignored_objects import IgnoredObjects
from mic.cluster.mirror_pods import IGNORED, MirrorPods
from mic.decisions.policy import Policy
from mic.preview.dry_run import Snapshot
from mic.preview.left_out import left_out
from podidentity.kube.events import EventRecorder
from podidentity.kube.object_reports import GROUP_SHARE
from podidentity.resources import Kind, Resource, ScheduledPod
from podidentity.telemetry.token_bucket import GROUPS_MAX
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import binding, identity, node, pod
from tests.support.virtual_time import now


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
    assert len(recorded.recorder.events) == ignored_objects.REPORTS.burst * GROUP_SHARE
    recorded.ignored.identity(identity("bad"), "no")
    assert recorded.recorder.events[-1][1] == "default/bad"
    assert recorded.counted == 10_001
    lines = [vars(each).get("reason") or each.message for each in caplog.records]
    assert lines == ["no"] * int(ignored_objects.REPORTS.burst * GROUP_SHARE) + [ignored_objects.OMISSION, "no"]


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
    assert len(recorded.recorder.events) == ignored_objects.REPORTS.burst


NODE_REPORTS = int(mirror_pods.REPORTS.burst * GROUP_SHARE)


class Recorded:
    """What an Informer calls behind MirrorPods."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def upserted(self, old: ScheduledPod | None, new: ScheduledPod) -> None:
        self.seen.append(new.metadata.name)

    def deleted(self, old: ScheduledPod) -> None:
        self.seen.append(f"-{old.metadata.name}")


async def test_a_mirror_pod_gets_no_assignment_and_another_pod_does(world: MicWorld) -> None:
    await world.settle_with(pod("mirror", mirror=True), pod("web"), identity(), binding())
    assert sorted(world.objects) == [("default", "web-default-demo")]


async def test_an_assignment_that_an_older_mic_made_for_it_is_revoked_and_its_identity_detached(
    world: MicWorld,
) -> None:
    await world.settle_with(pod(), identity(), binding())
    assert world.statuses() == {"web-default-demo": "Assigned"}
    world.add(pod(mirror=True))  # the stored pod, as this version reads it
    await world.settle()
    assert not world.objects
    assert world.attached(VM) == set()


async def test_a_mirror_pod_is_reported_once_in_the_log_and_on_the_pod(
    world: MicWorld, caplog: pytest.LogCaptureFixture
) -> None:
    inner = Recorded()
    handler = MirrorPods(inner, world.recorder)
    mirror = pod("mirror", mirror=True)
    handler.upserted(None, mirror)
    handler.upserted(mirror, mirror)
    handler.upserted(None, pod("web"))
    handler.upserted(None, pod("unlabelled", mirror=True, label=""))
    handler.deleted(mirror)
    assert [record.__dict__["pod"] for record in caplog.records] == ["default/mirror"]
    assert inner.seen == ["mirror", "mirror", "web", "unlabelled", "-mirror"]
    await world.recorder.flushed()
    events = world.api.store.list("events")
    assert [(each["reason"], each["involvedObject"]["name"]) for each in events] == [(IGNORED, "mirror")]
    assert "mirror pod" in events[0]["message"]


async def test_thousands_of_mirror_pods_do_not_fill_the_log(world: MicWorld, caplog: pytest.LogCaptureFixture) -> None:
    handler = MirrorPods(Recorded(), world.recorder, clock=now)
    for number in range(2000):
        handler.upserted(None, pod(f"m{number}", mirror=True))
    handler.upserted(None, pod("other", node="n1", mirror=True))
    lines = [vars(each).get("pod") or each.message for each in caplog.records]
    assert lines == [*(f"default/m{number}" for number in range(NODE_REPORTS)), mirror_pods.OMISSION, "default/other"]
    await world.recorder.flushed()
    events = [each["involvedObject"]["name"] for each in world.api.store.list("events")]
    assert sorted(events) == sorted([*(f"m{number}" for number in range(NODE_REPORTS)), "other"])


def test_a_plan_lists_it_among_the_ignored_objects() -> None:
    snapshot = Snapshot(
        pods=(pod("mirror", mirror=True), pod("web")),
        nodes=(node(),),
        identities=(identity(),),
        bindings=(binding(),),
        assigned=(),
    )
    (ignored,) = left_out(snapshot, Policy(), force_namespaced=False)
    assert (ignored.kind, ignored.name, ignored.pods) == ("Pod", "default/mirror", 1)
    assert "mirror pod" in ignored.why
