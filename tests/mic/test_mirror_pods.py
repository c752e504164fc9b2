"""Mirror pods: MIC assigns nothing to them, revokes their assignments, and reports the reason."""

import logging

import pytest

from mic.cluster.mirror_pods import IGNORED, OMISSION, REPORTS, MirrorPods
from mic.decisions.policy import Policy
from mic.preview.dry_run import Snapshot
from mic.preview.left_out import left_out
from podidentity.kube.object_reports import GROUP_SHARE
from podidentity.resources import ScheduledPod
from tests.mic.cluster import Cluster, binding, identity, node, pod, vm_id
from tests.mic.reconcile_bench import reconcile_bench

VM = vm_id("n0")
NODE_REPORTS = int(REPORTS.burst * GROUP_SHARE)


class Recorded:
    """What an Informer calls behind MirrorPods."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def upserted(self, old: ScheduledPod | None, new: ScheduledPod) -> None:
        self.seen.append(new.metadata.name)

    def deleted(self, old: ScheduledPod) -> None:
        self.seen.append(f"-{old.metadata.name}")


def test_a_mirror_pod_gets_no_assignment_and_another_pod_does() -> None:
    cluster = Cluster()
    cluster.host(VM)
    cluster.add(node(), pod("mirror", mirror=True), pod("web"), identity(), binding())
    cluster.reconcile_until_in_sync(VM)
    assert sorted(cluster.objects) == [("default", "web-default-demo")]


def test_an_assignment_that_an_older_mic_made_for_it_is_revoked_and_its_identity_detached() -> None:
    cluster = Cluster()
    cluster.host(VM)
    cluster.add(node(), pod(), identity(), binding())
    cluster.reconcile_until_in_sync(VM)
    assert cluster.statuses() == {"web-default-demo": "Assigned"}
    cluster.add(pod(mirror=True))  # the stored pod, as this version reads it
    cluster.reconcile_until_in_sync(VM)
    assert not cluster.objects
    assert cluster.on(VM) == set()


async def test_a_mirror_pod_is_reported_once_in_the_log_and_on_the_pod(caplog: pytest.LogCaptureFixture) -> None:
    async with reconcile_bench() as stage:
        inner = Recorded()
        handler = MirrorPods(inner, stage.recorder)
        mirror = pod("mirror", mirror=True)
        with caplog.at_level(logging.WARNING):
            handler.upserted(None, mirror)
            handler.upserted(mirror, mirror)
            handler.upserted(None, pod("web"))
            handler.upserted(None, pod("unlabelled", mirror=True, label=""))
            handler.deleted(mirror)
        assert [record.__dict__["pod"] for record in caplog.records] == ["default/mirror"]
        assert inner.seen == ["mirror", "mirror", "web", "unlabelled", "-mirror"]
        await stage.recorder.flushed()
        events = stage.api.store.list("events")
        assert [(each["reason"], each["involvedObject"]["name"]) for each in events] == [(IGNORED, "mirror")]
        assert "mirror pod" in events[0]["message"]


async def test_thousands_of_mirror_pods_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with reconcile_bench() as stage:
        handler = MirrorPods(Recorded(), stage.recorder, clock=stage.time)
        with caplog.at_level(logging.WARNING):
            for number in range(2000):
                handler.upserted(None, pod(f"m{number}", mirror=True))
            handler.upserted(None, pod("other", node="n1", mirror=True))
        lines = [vars(each).get("pod") or each.message for each in caplog.records]
        assert lines == [*(f"default/m{number}" for number in range(NODE_REPORTS)), OMISSION, "default/other"]
        await stage.recorder.flushed()
        events = [each["involvedObject"]["name"] for each in stage.api.store.list("events")]
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
