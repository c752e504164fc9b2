"""Mirror pods: MIC assigns nothing to them, revokes their assignments, and reports the reason."""

import logging

import pytest

from mic.cluster.mirror_pods import IGNORED, OMISSION, REPORTS, MirrorPods
from mic.decisions.policy import Policy
from mic.preview.dry_run import Snapshot
from mic.preview.left_out import left_out
from podidentity.kube.object_reports import GROUP_SHARE
from podidentity.resources import ScheduledPod
from tests.support.mic import VM, MicWorld
from tests.support.objects import binding, identity, node, pod
from tests.virtual_time import now

NODE_REPORTS = int(REPORTS.burst * GROUP_SHARE)


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
    with caplog.at_level(logging.WARNING):
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
    with caplog.at_level(logging.WARNING):
        for number in range(2000):
            handler.upserted(None, pod(f"m{number}", mirror=True))
        handler.upserted(None, pod("other", node="n1", mirror=True))
    lines = [vars(each).get("pod") or each.message for each in caplog.records]
    assert lines == [*(f"default/m{number}" for number in range(NODE_REPORTS)), OMISSION, "default/other"]
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
