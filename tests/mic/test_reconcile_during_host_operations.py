"""Reconcile passes while an operation of Azure runs on the host: MIC waits for its result where it needs the host."""

import asyncio
from dataclasses import replace

import pytest

from mic.azure.errors import AzureError
from mic.azure.identities import Attached, Change, HostIdentities
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from tests.support.mic import VM, MicWorld
from tests.support.objects import identity_id, pod
from tests.virtual_time import now


async def test_an_operation_of_an_earlier_leader_is_waited_for(world: MicWorld) -> None:
    world.bind()
    world.hosts.state = HostIdentities(provisioning_state="Updating", etag='"1"')

    def end() -> None:
        assert "update" not in world.hosts.calls
        world.hosts.state = HostIdentities(etag='"2"')

    asyncio.get_running_loop().call_later(30.0, end)
    began = now()
    assert await world.reconcile() == PassResult()
    assert now() - began >= 30.0
    assert world.hosts.calls[-2:] == ["get", "update"]


@pytest.mark.parametrize(("ended", "status"), [("Succeeded", "Assigned"), ("Failed", "Created")])
async def test_the_target_state_of_a_running_operation_is_not_its_result(
    world: MicWorld, ended: str, status: str
) -> None:
    world.bind()
    update = world.hosts.update
    seen: list[dict[str, str]] = []

    async def lost(host: Host, change: Change) -> HostIdentities:
        world.hosts.state = replace(await update(host, change), provisioning_state="Updating")
        raise AzureError("the answer was lost")

    world.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    for _ in range(3):
        done = await world.reconcile()
        await asyncio.sleep(done.again_after or 0.0)
        seen.append(world.statuses())
    assert seen == [{"demo-default-demo": "Created"}] * 3
    world.hosts.state = replace(
        world.hosts.state if ended == "Succeeded" else HostIdentities(), provisioning_state=ended
    )
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": status}


async def test_an_identity_attached_before_a_foreign_operation_is_assigned_during_it(world: MicWorld) -> None:
    world.bind()
    await world.reconcile()
    world.hosts.state = replace(world.hosts.state, provisioning_state="Updating")
    world.add(pod("another"))
    world.host_reconciler.look_again(VM)
    began = now()
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned", "another-default-demo": "Assigned"}
    assert now() == began


async def test_an_endless_operation_is_not_attributed_to_identities(world: MicWorld) -> None:
    world.bind()
    attached = {identity_id("demo").lower(): Attached(identity_id("demo"))}
    world.hosts.state = HostIdentities("UserAssigned", attached, etag='"1"', provisioning_state="Updating")
    waited: list[float] = []
    while world.statuses() != {"demo-default-demo": "Assigned"}:
        pause = (await world.reconcile()).again_after
        waited.append(pause or 0.0)
        await asyncio.sleep(waited[-1])
    assert 120 <= sum(waited) <= 130
    assert waited[0] < 0.5, "the operation may end soon"
