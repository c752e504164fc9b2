"""`--detach-grace`: an unused identity stays attached for some time, although NMI no longer serves it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mic.azure.memory import HostMemory
from mic.reconciliation.work_queue import PassResult
from tests.support.mic.world import ASSIGNED, MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod, vm_id

DEMO = identity_id("demo").lower()


@pytest.fixture
async def world() -> AsyncIterator[MicWorld]:
    async with MicWorld(grace_seconds=100.0) as made:
        yield made


async def test_the_object_is_revoked_immediately_and_the_identity_is_detached_after_the_grace_period(
    world: MicWorld,
) -> None:
    await world.assign()
    world.unbind()
    done = await world.reconcile()
    stored = world.api.store.get(ASSIGNED, "demo-default-demo", "default")
    assert stored["metadata"]["deletionTimestamp"], "NMI serves it no more"
    assert stored["metadata"]["finalizers"], "the record of whose it is outlives the detach"
    assert done.again_after == pytest.approx(100.0)
    calls = list(world.hosts.calls)
    await asyncio.sleep(99.0)
    assert (await world.reconcile()).again_after == pytest.approx(1.0)
    assert world.hosts.calls == calls, "no call to Azure until then"
    await asyncio.sleep(1.0)
    assert await world.reconcile() == PassResult()
    assert world.hosts.state.attached == {}
    assert world.statuses() == {}


async def test_a_pod_created_within_the_grace_period_is_assigned_without_an_azure_call(world: MicWorld) -> None:
    await world.assign()
    world.unbind()
    await world.reconcile()
    calls = list(world.hosts.calls)
    await asyncio.sleep(50.0)
    world.add(pod("next", label="demo"))
    assert await world.reconcile() == PassResult()
    assert world.hosts.calls == calls
    assert world.statuses() == {"next-default-demo": "Assigned"}, "the old object is deleted"
    record = world.api.store.get(ASSIGNED, "next-default-demo", "default")["metadata"]["annotations"]
    assert record["aadpodidentity.k8s.io/attached-by"] == "mic"


async def test_the_grace_period_starts_again_when_the_next_pod_ends(world: MicWorld) -> None:
    await world.assign()
    world.unbind()
    await world.reconcile()
    await asyncio.sleep(60.0)
    await world.assign()
    world.unbind()
    assert (await world.reconcile()).again_after == pytest.approx(100.0)
    await asyncio.sleep(60.0)
    await world.reconcile()
    assert DEMO in world.hosts.state.attached


async def test_another_update_of_the_host_does_not_detach_it_early(world: MicWorld) -> None:
    await world.assign()
    world.unbind()
    await world.assign("other")
    assert [(len(change.adds), len(change.removes)) for change in world.changes] == [(1, 0), (1, 0)]
    await asyncio.sleep(100.0)
    await world.reconcile()
    assert world.changes[-1].removes == (identity_id("demo"),)
    assert world.statuses() == {"other-default-other": "Assigned"}


async def test_a_new_leader_counts_from_its_first_read(world: MicWorld) -> None:
    await world.assign()
    world.unbind()
    await world.reconcile()
    await asyncio.sleep(90.0)
    world.restart()
    done = await world.reconcile()
    assert done.again_after == pytest.approx(100.0)
    assert DEMO in world.hosts.state.attached
    await asyncio.sleep(100.0)
    assert await world.reconcile() == PassResult()
    assert world.hosts.state.attached == {}


async def test_an_identity_detached_by_another_program_blocks_no_object(world: MicWorld) -> None:
    await world.assign()
    world.unbind()
    await world.reconcile()
    world.hosts.state = type(world.hosts.state)(etag='"9"')
    assert await world.look() == PassResult()
    assert world.statuses() == {}


async def test_a_pending_detach_of_an_updated_object_waits_too(world: MicWorld) -> None:
    world.host(vm_id("n1"))
    await world.settle_with(node("n1"), identity(), binding(), pod(uid="first"))
    world.add(pod(node="n1", uid="second"))
    await world.settle()
    assert await world.steps() == []
    assert world.attached(vm_id("n0")) == {"demo"}
    await asyncio.sleep(100.0)
    await world.settle()
    assert world.attached(vm_id("n0")) == set()


def test_without_a_grace_period_no_identity_stays_attached() -> None:
    memory = HostMemory(lambda: 0.0)
    assert memory.warm([DEMO], 0.0) == {}
    assert memory.warm([DEMO], 1.0) == {DEMO: 1.0}
