"""Reconcile passes while an operation of Azure runs on the host: MIC waits for its result where it needs the host."""

from dataclasses import replace

import pytest

from mic.azure.errors import AzureError
from mic.azure.identities import Attached, Change, HostIdentities
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from tests.mic.cluster import identity_id, pod
from tests.mic.reconcile_bench import VM, ReconcileBench, Time


async def test_an_operation_of_an_earlier_leader_is_waited_for(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.state = HostIdentities(provisioning_state="Updating", etag='"1"')

    async def passing(seconds: float) -> None:
        if len(stage.time.slept) == 2:
            stage.hosts.state = HostIdentities(etag='"2"')
        await Time.sleep(stage.time, seconds)

    stage.host_reconciler._updater._sleep = passing
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.calls == ["get", "get", "get", "get", "update"]


@pytest.mark.parametrize(("ended", "status"), [("Succeeded", "Assigned"), ("Failed", "Created")])
async def test_the_target_state_of_a_running_operation_is_not_its_result(
    stage: ReconcileBench, ended: str, status: str
) -> None:
    stage.bind()
    update = stage.hosts.update
    seen: list[dict[str, str]] = []

    async def lost(host: Host, change: Change) -> HostIdentities:
        stage.hosts.state = replace(await update(host, change), provisioning_state="Updating")
        raise AzureError("the answer was lost")

    stage.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    for _ in range(3):
        done = await stage.reconcile()
        stage.time.now += done.again_after or 0.0
        seen.append(stage.statuses())
    assert seen == [{"demo-default-demo": "Created"}] * 3
    stage.hosts.state = replace(
        stage.hosts.state if ended == "Succeeded" else HostIdentities(), provisioning_state=ended
    )
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": status}


async def test_an_identity_attached_before_a_foreign_operation_is_assigned_during_it(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.hosts.state = replace(stage.hosts.state, provisioning_state="Updating")
    stage.view.pods.upserted(None, pod("another"))
    stage.host_reconciler.look_again(VM)
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned", "another-default-demo": "Assigned"}
    assert stage.time.slept == []


async def test_an_endless_operation_is_not_attributed_to_identities(stage: ReconcileBench) -> None:
    stage.bind()
    attached = {identity_id("demo").lower(): Attached(identity_id("demo"))}
    stage.hosts.state = HostIdentities("UserAssigned", attached, etag='"1"', provisioning_state="Updating")
    waited: list[float] = []
    while stage.statuses() != {"demo-default-demo": "Assigned"}:
        pause = (await stage.reconcile()).again_after
        waited.append(pause or 0.0)
        stage.time.now += waited[-1]
    assert 120 <= sum(waited) <= 130
    assert waited[0] < 0.5, "the operation may end soon"
