"""Reconcile passes: their calls, the lease, failures of Azure, and operations that run on the host."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import pytest

from mic.azure.errors import AzureError, Refused, Throttled, Unreachable
from mic.azure.identities import Attached, Change, HostIdentities
from mic.azure.memory import HostMemory
from mic.reconciliation.host_reconciler import STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity_id, pod
from tests.support.virtual_time import now


async def test_an_old_read_of_the_host_decides_nothing(world: MicWorld) -> None:
    world.hosts.state = HostIdentities(
        type="UserAssigned", attached={identity_id("demo").lower(): Attached(identity_id("demo"))}
    )
    await world.assign()
    world.unbind()
    await world.reconcile()
    assert world.statuses() == {}
    world.hosts.state = HostIdentities()  # another client has detached it
    await world.assign()
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


async def test_retry_after_of_a_write_is_obeyed_while_objects_are_written(world: MicWorld) -> None:
    world.bind()
    world.fail("update", Throttled("slow down", status=429, retry_after=77.0))
    done = await world.reconcile()
    assert done.again_after == pytest.approx(77.0)
    assert world.statuses() == {"demo-default-demo": "Created"}
    assert "Azure throttles MIC's calls" in world.message("demo-default-demo")
    calls = list(world.hosts.calls)
    await world.assign("second")
    assert world.hosts.calls == calls
    assert world.statuses()["second-default-second"] == "Created"
    assert await world.later(77.0) == PassResult()
    assert set(world.statuses().values()) == {"Assigned"}
    assert len(world.changes) == 2, "later changes are in the same update"


async def test_retry_after_of_a_read_is_obeyed_and_revocations_do_not_wait_for_it(world: MicWorld) -> None:
    await world.assign()
    world.host_reconciler.request_read(VM)
    world.fail("get", Throttled("slow down", status=429, retry_after=50.0))
    done = await world.reconcile()
    assert done.again_after == pytest.approx(50.0)
    world.unbind()
    await world.host_reconciler.revoke(VM)
    stored = world.api.store.get(ASSIGNED, "demo-default-demo", "default")
    assert stored["metadata"]["deletionTimestamp"]
    await world.reconcile()
    assert world.hosts.calls.count("get") == 2
    assert await world.later(50.0) == PassResult()
    assert world.statuses() == {}


async def test_a_revocation_does_not_wait_for_an_update_of_its_host(world: MicWorld) -> None:
    await world.assign()
    update = world.hosts.update

    async def slow(host: Host, change: Change) -> HostIdentities:
        await asyncio.sleep(600.0)
        return await update(host, change)

    world.hosts.update = slow  # type: ignore[method-assign]  # one test's Azure
    world.bind("other")
    waiting = asyncio.create_task(world.reconcile())
    await asyncio.sleep(1.0)
    world.remove(binding("demo", identity="demo", selector="demo"))
    await world.host_reconciler.revoke(VM)
    assert world.api.store.get(ASSIGNED, "demo-default-demo", "default")["metadata"]["deletionTimestamp"]
    assert not waiting.done()
    await waiting
    await world.settle()
    assert world.attached(VM) == {"other"}


async def test_an_object_states_that_azure_refuses_mics_credentials(world: MicWorld) -> None:
    world.fail("get", Refused("no", status=403, code="AuthorizationFailed"))
    await world.assign()
    assert world.statuses() == {"demo-default-demo": "Created"}
    assert "(403 AuthorizationFailed): check its credentials and its role" in world.message("demo-default-demo")
    await world.later(60.0)
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert world.message("demo-default-demo") == ""


async def test_azure_failures_are_retried_after_growing_pauses(world: MicWorld) -> None:
    world.bind()
    world.fail("update", *(AzureError("broken", status=500) for _ in range(3)))
    assert await world.pauses(3) == [0.5, 1.0, 2.0]
    assert await world.reconcile() == PassResult()


async def test_an_update_without_effect_is_retried_after_growing_pauses(world: MicWorld) -> None:
    world.bind()

    async def idle(host: Host, change: Change) -> HostIdentities:
        world.changes.append(change)
        return world.hosts.state

    world.hosts.update = idle  # type: ignore[method-assign]  # one test's Azure
    assert await world.pauses(4) == [STALE_SECONDS, 0.5, 1.0, 2.0]
    assert len(world.changes) == 4


async def test_a_pod_that_waits_long_because_azure_does_not_respond_gets_one_event(world: MicWorld) -> None:
    world.bind()
    world.fail("get", *(Unreachable(f"no answer, try {number}") for number in range(12)))
    began, reported_at = now(), 0.0
    while world.hosts.failures["get"]:
        await world.pauses(1)
        if world.message("demo-default-demo") and not reported_at:
            reported_at = now() - began
    assert 60 <= reported_at <= 130
    assert "have failed for more than a minute (no response); check the network" in world.message("demo-default-demo")
    assert world.api.written("").count("PATCH") == 1
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert world.message("demo-default-demo") == ""


FAILED: Final = AzureError("broken", status=500, code="InternalServerError")
SILENT: Final = Unreachable("no answer")


async def reported(world: MicWorld, failures: Sequence[AzureError]) -> list[tuple[float, str]]:
    """Return the texts of the waiting object while reads fail, each with the time of its first appearance."""
    world.bind()
    world.fail("get", *failures)
    changes: list[tuple[float, str]] = []
    while world.hosts.failures["get"]:
        await world.pauses(1)
        text = world.message("demo-default-demo")
        if text and (not changes or changes[-1][1] != text):
            changes.append((now(), text))
    return changes


async def test_the_reason_of_a_long_failure_is_the_latest_one_at_most_every_five_minutes(world: MicWorld) -> None:
    changes = await reported(world, [*[FAILED] * 12, *[FAILED, SILENT] * 6, *[SILENT] * 6])
    reasons = [text.partition("minute (")[2].partition(")")[0] for _, text in changes]
    assert set(reasons) == {"500 InternalServerError", "no response"}
    assert reasons[-1] == "no response"
    assert all(later - earlier >= 300 for (earlier, _), (later, _) in pairwise(changes))


async def test_throttling_that_alternates_with_failures_does_not_change_the_text_each_time(world: MicWorld) -> None:
    changes = await reported(world, [*[FAILED] * 9, *[throttled(), FAILED] * 10])
    assert all(later - earlier >= 300 for (earlier, _), (later, _) in pairwise(changes[1:]))


async def test_the_first_failure_of_many_is_not_the_reason_that_is_reported(world: MicWorld) -> None:
    changes = await reported(world, [SILENT, *[FAILED] * 12])
    assert ["(500 InternalServerError)" in text for _, text in changes] == [True]


async def test_updates_without_effect_are_not_reported_as_no_response(world: MicWorld) -> None:
    world.bind()

    async def idle(host: Host, change: Change) -> HostIdentities:
        return world.hosts.state

    world.hosts.update = idle  # type: ignore[method-assign]  # one test's Azure
    await world.pauses(1)
    while not world.message("demo-default-demo"):
        await world.pauses(1)
    assert "(updates have no effect); MIC keeps retrying" in world.message("demo-default-demo")


async def test_a_throttled_host_is_reported_as_throttled_also_after_a_minute(world: MicWorld) -> None:
    world.bind()
    world.fail("get", *(throttled(30.0) for _ in range(6)))
    await world.pauses(5)
    assert world.message("demo-default-demo").startswith("Azure throttles MIC's calls for /subscriptions/")


def throttled(retry_after: float | None = None) -> Throttled:
    return Throttled("slow down", status=429, code="TooManyRequests", retry_after=retry_after)


async def test_a_throttled_read_is_reported_immediately_and_the_report_is_written_once(world: MicWorld) -> None:
    world.bind()
    world.fail("get", *(throttled(2.0) for _ in range(4)))
    await world.pauses(1)
    message = world.message("demo-default-demo")
    assert message.startswith("Azure throttles MIC's calls for /subscriptions/")
    assert message.endswith("(429 TooManyRequests); MIC tries again within 2 minutes")
    assert "Pod demo" in await world.warned()
    world.api.requests.clear()
    await world.pauses(3)
    assert world.api.written("azureassignedidentities") == []
    await world.pauses(3)
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert world.message("demo-default-demo") == ""


async def test_throttling_does_not_withdraw_an_assigned_identity(world: MicWorld) -> None:
    world.bind()
    await world.pauses(2)
    world.hosts.state = HostIdentities(etag='"1"', attached={"other": Attached("other")})
    world.fail("update", *(throttled() for _ in range(5)))
    world.host_reconciler.request_read(VM)
    await world.pauses(2)
    assert world.statuses() == {"demo-default-demo": "Assigned"}


def test_a_long_pause_has_a_time_that_is_rounded_up_to_a_minute() -> None:
    memory = HostMemory(lambda: 0.0, now=lambda: datetime(2026, 1, 1, 23, 55, 30, tzinfo=UTC))
    assert memory.retry_text(120.0) == "MIC tries again within 2 minutes"
    assert memory.retry_text(240.0) == "MIC tries again at 2026-01-02T00:00Z"
    for _ in range(4):
        memory.quarantine("key", "no")
    assert memory.quarantined() == {"key": "no; quarantined: MIC tries again at 2026-01-02T00:00Z"}


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


async def test_a_failed_update_that_took_effect_counts(world: MicWorld) -> None:
    world.bind()
    update = world.hosts.update

    async def lost(host: Host, change: Change) -> HostIdentities:
        await update(host, change)
        raise AzureError("the answer was lost")

    world.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


@pytest.mark.parametrize(("ended", "status"), [("Succeeded", "Assigned"), ("Failed", "Created")])
async def test_the_target_of_a_running_operation_is_not_its_result(world: MicWorld, ended: str, status: str) -> None:
    world.bind()
    update = world.hosts.update
    seen: list[dict[str, str]] = []

    async def lost(host: Host, change: Change) -> HostIdentities:
        world.hosts.state = replace(await update(host, change), provisioning_state="Updating")
        raise AzureError("the answer was lost")

    world.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    for _ in range(3):
        await world.pauses(1)
        seen.append(world.statuses())
    assert seen == [{"demo-default-demo": "Created"}] * 3
    world.hosts.state = replace(
        world.hosts.state if ended == "Succeeded" else HostIdentities(), provisioning_state=ended
    )
    await world.reconcile()
    assert world.statuses() == {"demo-default-demo": status}


async def test_an_identity_attached_before_a_foreign_operation_is_assigned_during_it(world: MicWorld) -> None:
    await world.assign()
    world.hosts.state = replace(world.hosts.state, provisioning_state="Updating")
    world.add(pod("another"))
    world.host_reconciler.request_read(VM)
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
        waited += await world.pauses(1)
    assert 120 <= sum(waited) <= 130
    assert waited[0] < 0.5, "the operation may end soon"
