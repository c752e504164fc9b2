"""Reconcile passes without failures of Azure, and passes while MIC's lease may expire.

The API server is the sandbox's, over TLS.

Excluded: the order of steps without failures (the plan's tests) and the wire to Azure (`test_compute_requests`).
"""

from mic.azure.identities import Attached, HostIdentities
from mic.reconciliation.work_queue import PassResult
from tests.mic.cluster import identity_id, pod
from tests.mic.reconcile_bench import ReconcileBench, Time


async def test_a_pass_without_errors_sends_two_azure_calls(stage: ReconcileBench) -> None:
    stage.bind()
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.calls == ["get", "update"]
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.calls == ["get", "update"], "nothing changed, so no call is made"


async def test_a_new_pod_with_an_attached_identity_costs_no_azure_call(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.view.pods.upserted(None, pod("second"))
    assert await stage.reconcile() == PassResult()
    assert stage.statuses()["second-default-demo"] == "Assigned"
    assert stage.hosts.calls == ["get", "update"]


async def test_an_old_read_of_the_host_decides_nothing(stage: ReconcileBench) -> None:
    stage.hosts.state = HostIdentities(
        type="UserAssigned", attached={identity_id("demo").lower(): Attached(identity_id("demo"))}
    )
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    await stage.reconcile()
    assert stage.statuses() == {}
    stage.hosts.state = HostIdentities()  # another client has detached it
    stage.bind()
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    assert identity_id("demo").lower() in stage.hosts.state.attached


async def test_no_change_is_sent_if_the_lease_may_expire(stage: ReconcileBench) -> None:
    stage.bind()
    stage.lease[0] = 5.0

    async def renewed(seconds: float) -> None:
        assert "update" not in stage.hosts.calls
        if len(stage.time.slept) == 3:
            stage.lease[0] = 12.0
        await Time.sleep(stage.time, seconds)

    stage.host_reconciler._updater._sleep = renewed
    assert await stage.reconcile() == PassResult()
    assert len(stage.time.slept) >= 3


async def test_no_object_is_written_after_the_lease_has_expired(stage: ReconcileBench) -> None:
    stage.lease[0] = 0.0
    stage.bind()
    assert (await stage.reconcile()).failed
    assert stage.statuses() == {}
    stage.lease[0] = 60.0
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
