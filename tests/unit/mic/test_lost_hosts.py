"""A VM or scale set that does not exist on Azure any more although its node exists. A temporary 404 revokes nothing."""

import asyncio

import pytest

from mic.azure.errors import AzureError
from mic.azure.identities import Change, HostIdentities
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import ClusterObject, binding, identity, node, pod, vm_id

LOST = HostIdentities(gone=True)


async def lose_from_the_start(world: MicWorld) -> None:
    """Let Azure lack the host of a pod for so long that MIC believes it."""
    world.hosts.state = LOST
    await world.assign()
    await asyncio.sleep(60.0)
    await world.reconcile()
    assert world.statuses() == {}


async def test_one_404_changes_nothing(world: MicWorld) -> None:
    await world.assign()
    there, world.hosts.state = world.hosts.state, LOST
    done = await world.look()
    assert done.again_after == pytest.approx(5.0)
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    world.hosts.state = there
    await asyncio.sleep(5.0)
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert len(world.changes) == 1


async def test_a_missing_host_is_read_a_few_times_within_the_minute(world: MicWorld) -> None:
    world.hosts.state = LOST
    world.bind()
    pauses = []
    for _ in range(7):
        done = await world.reconcile()
        assert done.again_after is not None
        pauses.append(done.again_after)
        await asyncio.sleep(done.again_after)
    assert pauses == [5.0, 5.0, 10.0, 20.0, 20.0, 180.0, 180.0]


async def test_a_lost_host_stays_lost_while_azure_does_not_respond(world: MicWorld) -> None:
    await lose_from_the_start(world)
    await asyncio.sleep(180.0)
    world.fail("get", AzureError("broken", status=500))
    await world.reconcile()
    assert world.statuses() == {}, "nothing is made that would have to go again"


async def test_a_second_404_after_a_minute_counts_and_the_objects_are_deleted(world: MicWorld) -> None:
    await world.assign()
    world.hosts.state = LOST
    await world.look()
    await asyncio.sleep(60.0)
    done = await world.reconcile()
    assert world.statuses() == {}
    assert done.again_after == pytest.approx(180.0), "looked at once in an interval"
    assert len(world.changes) == 1, "Azure is not touched"
    assert await world.warned() == [
        "AzureAssignedIdentity demo-default-demo",
        "AzureIdentityBinding demo",
        "Pod demo",
    ]


async def test_a_pod_scheduled_to_a_lost_host_is_reported_at_the_next_read(world: MicWorld) -> None:
    await lose_from_the_start(world)
    await world.assign("late")
    assert world.statuses() == {}
    await asyncio.sleep(180.0)
    await world.reconcile()
    assert {"Pod late", "AzureIdentityBinding late"} <= set(await world.warned())


async def test_events_and_comparisons_do_not_hasten_the_next_read(world: MicWorld) -> None:
    world.hosts.state = LOST
    await world.assign()
    for expected in (1, 2):
        for number in range(3):
            world.add(pod(f"p{expected}{number}", label="demo"))
            await world.look()
        assert len(world.hosts.calls) == expected
        await asyncio.sleep(60.0)
        await world.reconcile()


async def test_a_new_pod_on_a_lost_host_states_why_it_waits(world: MicWorld) -> None:
    world.hosts.state = LOST
    await world.assign()
    assert world.statuses() == {"demo-default-demo": "Created"}
    assert "Azure has no /subscriptions/sub" in world.message("demo-default-demo")


async def test_a_host_that_returns_gets_its_identities_again(world: MicWorld) -> None:
    await lose_from_the_start(world)
    world.hosts.state = HostIdentities(etag='"1"')
    await asyncio.sleep(180.0)
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_error_between_two_404s_does_not_count(world: MicWorld) -> None:
    world.bind()
    world.hosts.state = LOST
    await world.reconcile()
    await asyncio.sleep(60.0)
    world.fail("get", AzureError("broken", status=500))
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Created"}
    await asyncio.sleep(1.0)
    await world.reconcile()
    assert world.statuses() == {}


async def test_a_host_that_was_found_in_between_is_not_lost(world: MicWorld) -> None:
    await world.assign()
    there = world.hosts.state
    for state in (LOST, there, LOST):
        world.hosts.state = state
        await world.look()
        await asyncio.sleep(60.0)
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_update_that_finds_the_host_missing_counts_as_one_404(world: MicWorld) -> None:
    world.bind()

    async def lost(host: Host, change: Change) -> HostIdentities:
        del host, change
        world.hosts.state = LOST
        return LOST

    world.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    assert (await world.reconcile()).again_after == pytest.approx(5.0)
    assert world.statuses() == {"demo-default-demo": "Created"}


async def lost_vm(world: MicWorld, *more: ClusterObject) -> None:
    world.host(vm_id("n1"))
    await world.settle_with(node("n1"), identity(), binding(), *more)
    await world.lose(VM)


async def test_a_service_principal_requires_nothing_of_the_host_and_stays(world: MicWorld) -> None:
    await lost_vm(world, identity("sp", type_=1), binding("sp", identity="sp", selector="sp"), pod("app", label="sp"))
    await world.settle_with(pod("later", label="sp"))
    assert world.statuses() == {"app-default-sp": "Assigned", "later-default-sp": "Assigned"}


async def test_a_pod_that_moves_to_a_lost_vm_leaves_nothing_on_the_old_vm(world: MicWorld) -> None:
    await lost_vm(world, pod(node="n1", uid="first"))
    await world.settle_with(pod(node="n0", uid="second"))
    assert world.objects == {}
    assert world.attached(vm_id("n1")) == set()


async def test_a_pod_that_leaves_a_lost_vm_is_assigned_on_its_new_host(world: MicWorld) -> None:
    await lost_vm(world, pod(uid="first"))
    await world.settle()
    world.add(pod(node="n1", uid="second"))
    await world.settle(vm_id("n1"))
    assert world.statuses() == {"web-default-demo": "Assigned"}
    assert world.attached(vm_id("n1")) == {"demo"}


async def test_an_identity_that_becomes_a_service_principal_there_is_updated_in_place_and_not_revoked(
    world: MicWorld,
) -> None:
    world.bind()
    await world.settle()
    await world.lose(VM)
    world.add(identity(type_=1))
    steps = await world.steps()
    assert "update" in steps
    assert "revoke" not in steps
    assert world.statuses() == {"demo-default-demo": "Assigned"}
