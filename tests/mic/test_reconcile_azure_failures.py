"""Reconcile passes in which a read or an update of Azure fails: retry times, messages, unknown results."""

import pytest

from mic.azure.errors import AzureError, Refused, Throttled, Unreachable, UpdateConflict
from mic.azure.identities import Change, HostIdentities
from mic.reconciliation.host_reconciler import STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import VM, ReconcileBench


async def test_retry_after_of_a_write_is_obeyed_while_objects_are_written(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.failures = [Throttled("slow down", status=429, retry_after=77.0)]
    done = await stage.reconcile()
    assert done.again_after == pytest.approx(77.0)
    assert stage.statuses() == {"demo-default-demo": "Created"}
    calls = list(stage.hosts.calls)
    stage.bind("second")
    await stage.reconcile()
    assert stage.hosts.calls == calls
    assert stage.statuses()["second-default-second"] == "Created"
    stage.time.now += 77.0
    assert await stage.reconcile() == PassResult()
    assert set(stage.statuses().values()) == {"Assigned"}
    assert len(stage.hosts.changes) == 2, "later changes are in the same update"


async def test_retry_after_of_a_read_is_obeyed_and_revocations_do_not_wait_for_it(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.host_reconciler.look_again(VM)
    stage.hosts.unread = [Throttled("slow down", status=429, retry_after=50.0)]
    done = await stage.reconcile()
    assert done.again_after == pytest.approx(50.0)
    stage.unbind()
    await stage.host_reconciler.revoke(VM)
    stored = stage.api.store.get(ASSIGNED, "demo-default-demo", "default")
    assert stored["metadata"]["deletionTimestamp"]
    await stage.reconcile()
    assert stage.hosts.calls.count("get") == 2
    stage.time.now += 50.0
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {}


async def test_an_object_states_that_azure_refuses_mics_credentials(stage: ReconcileBench) -> None:
    stage.hosts.unread = [Refused("no", status=403, code="AuthorizationFailed")]
    stage.bind()
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Created"}
    assert "(403 AuthorizationFailed): check its credentials and its role" in stage.message("demo-default-demo")
    stage.time.now += 60.0
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    assert stage.message("demo-default-demo") == ""


async def test_azure_failures_are_retried_after_growing_pauses(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.failures = [AzureError("broken", status=500) for _ in range(3)]
    pauses = []
    for _ in range(3):
        done = await stage.reconcile()
        assert done.again_after is not None
        pauses.append(done.again_after)
        stage.time.now += done.again_after
    assert pauses == [0.5, 1.0, 2.0]
    assert await stage.reconcile() == PassResult()


async def test_a_failed_update_that_took_effect_counts(stage: ReconcileBench) -> None:
    stage.bind()
    update = stage.hosts.update

    async def lost(host: Host, change: Change) -> HostIdentities:
        await update(host, change)
        raise AzureError("the answer was lost")

    stage.hosts.update = lost  # type: ignore[method-assign]  # one test's Azure
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_update_without_effect_is_retried_after_growing_pauses(stage: ReconcileBench) -> None:
    stage.bind()

    async def idle(host: Host, change: Change) -> HostIdentities:
        stage.hosts.changes.append(change)
        return stage.hosts.state

    stage.hosts.update = idle  # type: ignore[method-assign]  # one test's Azure
    pauses = []
    for _ in range(4):
        pauses.append((await stage.reconcile()).again_after)
        stage.time.now += pauses[-1] or 0.0
    assert pauses == [STALE_SECONDS, 0.5, 1.0, 2.0]
    assert len(stage.hosts.changes) == 4


async def test_a_host_changed_by_another_writer_is_read_again(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.failures = [UpdateConflict("etag", status=412)]
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.calls == ["get", "update", "get", "update"]


async def test_a_pod_that_waits_long_because_azure_does_not_respond_gets_one_event(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.unread = [Unreachable(f"no answer, try {number}") for number in range(12)]
    patched: list[str] = []

    def note(request: Recorded) -> None:
        patched.extend([request.path] if request.method == "PATCH" else [])

    stage.api.intercept = note
    began, reported_at = stage.time.now, 0.0
    while stage.hosts.unread:
        stage.time.now += (await stage.reconcile()).again_after or 0.0
        if stage.message("demo-default-demo") and not reported_at:
            reported_at = stage.time.now - began
    assert 60 <= reported_at <= 130
    assert "have failed for more than a minute" in stage.message("demo-default-demo")
    assert len(patched) == 1
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    assert stage.message("demo-default-demo") == ""
