"""`--detach-grace`: an unused identity stays attached for some time, although NMI no longer serves it."""

from collections.abc import AsyncIterator

import pytest

from mic.azure.memory import HostMemory
from mic.reconciliation.work_queue import PassResult
from tests.mic.cluster import Cluster, binding, identity, identity_id, node, pod, vm_id
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import VM, ReconcileBench, reconcile_bench

DEMO = identity_id("demo").lower()


@pytest.fixture
async def stage() -> AsyncIterator[ReconcileBench]:
    async with reconcile_bench(grace_seconds=100.0) as made:
        yield made


async def test_the_object_is_revoked_immediately_and_the_identity_is_detached_after_the_grace_period(
    stage: ReconcileBench,
) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    done = await stage.reconcile()
    stored = stage.api.store.get(ASSIGNED, "demo-default-demo", "default")
    assert stored["metadata"]["deletionTimestamp"], "NMI serves it no more"
    assert stored["metadata"]["finalizers"], "the record of whose it is outlives the detach"
    assert done.again_after == pytest.approx(100.0)
    calls = list(stage.hosts.calls)
    stage.time.now += 99.0
    assert (await stage.reconcile()).again_after == pytest.approx(1.0)
    assert stage.hosts.calls == calls, "no call to Azure until then"
    stage.time.now += 1.0
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.state.attached == {}
    assert stage.statuses() == {}


async def test_a_pod_created_within_the_grace_period_is_assigned_without_an_azure_call(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    await stage.reconcile()
    calls = list(stage.hosts.calls)
    stage.time.now += 50.0
    stage.view.pods.upserted(None, pod("next", label="demo"))
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.calls == calls
    assert stage.statuses() == {"next-default-demo": "Assigned"}, "the old object is deleted"
    record = stage.api.store.get(ASSIGNED, "next-default-demo", "default")["metadata"]["annotations"]
    assert record["aadpodidentity.k8s.io/attached-by"] == "mic"


async def test_the_grace_period_starts_again_when_the_next_pod_ends(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    await stage.reconcile()
    stage.time.now += 60.0
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    assert (await stage.reconcile()).again_after == pytest.approx(100.0)
    stage.time.now += 60.0
    await stage.reconcile()
    assert DEMO in stage.hosts.state.attached


async def test_another_update_of_the_host_does_not_detach_it_early(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    stage.bind("other")
    await stage.reconcile()
    assert [(len(change.adds), len(change.removes)) for change in stage.hosts.changes] == [(1, 0), (1, 0)]
    stage.time.now += 100.0
    await stage.reconcile()
    assert stage.hosts.changes[-1].removes == (identity_id("demo"),)
    assert stage.statuses() == {"other-default-other": "Assigned"}


async def test_a_new_leader_counts_from_its_first_read(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    await stage.reconcile()
    stage.time.now += 90.0
    stage.host_reconciler._memories.clear()  # the state of one process
    done = await stage.reconcile()
    assert done.again_after == pytest.approx(100.0)
    assert DEMO in stage.hosts.state.attached
    stage.time.now += 100.0
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.state.attached == {}


async def test_an_identity_detached_by_another_program_blocks_no_object(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    await stage.reconcile()
    stage.hosts.state = type(stage.hosts.state)(etag='"9"')
    stage.host_reconciler.look_again(VM)
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {}


def test_a_pending_detach_of_an_updated_object_waits_too() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.host(vm_id("n1"))
    cluster.add(node("n0"), node("n1"), identity(), binding(), pod(uid="first"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(pod(node="n1", uid="second"))
    cluster.reconcile_until_in_sync(vm_id("n1"))
    assert cluster.reconcile(vm_id("n0"), warm=[DEMO]) == []
    assert cluster.on(vm_id("n0")) == {"demo"}
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()


def test_without_a_grace_period_no_identity_stays_attached() -> None:
    memory = HostMemory(lambda: 0.0)
    assert memory.warm([DEMO], 0.0) == {}
    assert memory.warm([DEMO], 1.0) == {DEMO: 1.0}
