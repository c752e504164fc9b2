"""Reconcile passes without failures of Azure, and passes while MIC's lease may expire.

The API server is the sandbox's, over TLS.

Excluded: the order of steps without failures (the plan's tests) and the wire to Azure (`test_compute_requests`).
"""

import asyncio

from mic.azure.identities import Attached, HostIdentities
from mic.reconciliation.work_queue import PassResult
from tests.support.mic import MicWorld
from tests.support.objects import identity_id, pod
from tests.virtual_time import now


async def test_a_pass_without_errors_sends_two_azure_calls(world: MicWorld) -> None:
    world.bind()
    assert await world.reconcile() == PassResult()
    assert world.hosts.calls == ["get", "update"]
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert await world.reconcile() == PassResult()
    assert world.hosts.calls == ["get", "update"], "nothing changed, so no call is made"


async def test_a_new_pod_with_an_attached_identity_costs_no_azure_call(world: MicWorld) -> None:
    world.bind()
    await world.reconcile()
    world.add(pod("second"))
    assert await world.reconcile() == PassResult()
    assert world.statuses()["second-default-demo"] == "Assigned"
    assert world.hosts.calls == ["get", "update"]


async def test_an_old_read_of_the_host_decides_nothing(world: MicWorld) -> None:
    world.hosts.state = HostIdentities(
        type="UserAssigned", attached={identity_id("demo").lower(): Attached(identity_id("demo"))}
    )
    world.bind()
    await world.reconcile()
    world.unbind()
    await world.reconcile()
    assert world.statuses() == {}
    world.hosts.state = HostIdentities()  # another client has detached it
    world.bind()
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert identity_id("demo").lower() in world.hosts.state.attached


async def test_no_change_is_sent_if_the_lease_may_expire(world: MicWorld) -> None:
    world.bind()
    world.lease[0] = 5.0

    def renew() -> None:
        assert "update" not in world.hosts.calls
        world.lease[0] = 12.0

    asyncio.get_running_loop().call_later(3.0, renew)
    began = now()
    assert await world.reconcile() == PassResult()
    assert "update" in world.hosts.calls
    assert now() - began >= 3.0


async def test_no_object_is_written_after_the_lease_has_expired(world: MicWorld) -> None:
    world.lease[0] = 0.0
    world.bind()
    assert (await world.reconcile()).failed
    assert world.statuses() == {}
    world.lease[0] = 60.0
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
