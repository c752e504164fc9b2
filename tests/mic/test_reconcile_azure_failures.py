"""Reconcile passes in which a read or an update of Azure fails: retry times, messages, unknown results."""

import asyncio

import pytest

from mic.azure.errors import AzureError, Refused, Throttled, Unreachable, UpdateConflict
from mic.azure.identities import Change, HostIdentities
from mic.reconciliation.host_reconciler import STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic import ASSIGNED, VM, MicWorld
from tests.virtual_time import now


async def test_retry_after_of_a_write_is_obeyed_while_objects_are_written(world: MicWorld) -> None:
    world.bind()
    world.fail("update", Throttled("slow down", status=429, retry_after=77.0))
    done = await world.reconcile()
    assert done.again_after == pytest.approx(77.0)
    assert world.statuses() == {"demo-default-demo": "Created"}
    calls = list(world.hosts.calls)
    world.bind("second")
    await world.reconcile()
    assert world.hosts.calls == calls
    assert world.statuses()["second-default-second"] == "Created"
    await asyncio.sleep(77.0)
    assert await world.reconcile() == PassResult()
    assert set(world.statuses().values()) == {"Assigned"}
    assert len(world.changes) == 2, "later changes are in the same update"


async def test_retry_after_of_a_read_is_obeyed_and_revocations_do_not_wait_for_it(world: MicWorld) -> None:
    world.bind()
    await world.reconcile()
    world.host_reconciler.look_again(VM)
    world.fail("get", Throttled("slow down", status=429, retry_after=50.0))
    done = await world.reconcile()
    assert done.again_after == pytest.approx(50.0)
    world.unbind()
    await world.host_reconciler.revoke(VM)
    stored = world.api.store.get(ASSIGNED, "demo-default-demo", "default")
    assert stored["metadata"]["deletionTimestamp"]
    await world.reconcile()
    assert world.hosts.calls.count("get") == 2
    await asyncio.sleep(50.0)
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {}


async def test_an_object_states_that_azure_refuses_mics_credentials(world: MicWorld) -> None:
    world.fail("get", Refused("no", status=403, code="AuthorizationFailed"))
    world.bind()
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Created"}
    assert "(403 AuthorizationFailed): check its credentials and its role" in world.message("demo-default-demo")
    await asyncio.sleep(60.0)
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert world.message("demo-default-demo") == ""


async def test_azure_failures_are_retried_after_growing_pauses(world: MicWorld) -> None:
    world.bind()
    world.fail("update", *(AzureError("broken", status=500) for _ in range(3)))
    pauses = []
    for _ in range(3):
        done = await world.reconcile()
        assert done.again_after is not None
        pauses.append(done.again_after)
        await asyncio.sleep(done.again_after)
    assert pauses == [0.5, 1.0, 2.0]
    assert await world.reconcile() == PassResult()


async def test_a_failed_update_that_took_effect_counts(world: MicWorld) -> None:
    world.bind()
    update = world.hosts.update

    async def lost(host: Host, change: Change) -> HostIdentities:
        await update(host, change)
        raise AzureError("the answer was lost")

    world.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_update_without_effect_is_retried_after_growing_pauses(world: MicWorld) -> None:
    world.bind()

    async def idle(host: Host, change: Change) -> HostIdentities:
        world.changes.append(change)
        return world.hosts.state

    world.hosts.update = idle  # type: ignore[method-assign]  # one test's Azure
    pauses = []
    for _ in range(4):
        pauses.append((await world.reconcile()).again_after)
        await asyncio.sleep(pauses[-1] or 0.0)
    assert pauses == [STALE_SECONDS, 0.5, 1.0, 2.0]
    assert len(world.changes) == 4


async def test_a_host_changed_by_another_writer_is_read_again(world: MicWorld) -> None:
    world.bind()
    world.fail("update", UpdateConflict("etag", status=412))
    assert await world.reconcile() == PassResult()
    assert world.hosts.calls == ["get", "update", "get", "update"]


async def test_a_pod_that_waits_long_because_azure_does_not_respond_gets_one_event(world: MicWorld) -> None:
    world.bind()
    world.fail("get", *(Unreachable(f"no answer, try {number}") for number in range(12)))
    patched: list[str] = []

    def note(request: Recorded) -> None:
        patched.extend([request.path] if request.method == "PATCH" else [])

    world.api.intercept = note
    began, reported_at = now(), 0.0
    while world.hosts.failures["get"]:
        await asyncio.sleep((await world.reconcile()).again_after or 0.0)
        if world.message("demo-default-demo") and not reported_at:
            reported_at = now() - began
    assert 60 <= reported_at <= 130
    assert "have failed for more than a minute" in world.message("demo-default-demo")
    assert len(patched) == 1
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert world.message("demo-default-demo") == ""
