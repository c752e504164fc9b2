"""Reconcile passes in which Azure or the API server fails. The API server is the sandbox's, over TLS.

Excluded: the order of steps without failures (the plan's tests) and the wire to Azure (`test_compute_requests`).
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mic.azure.errors import AzureError, BadIdentities, Refused, Throttled, Unreachable, UpdateConflict
from mic.azure.identities import Attached, Change, HostIdentities
from mic.decisions.documents import MESSAGE_MAX
from mic.reconciliation.host_reconciler import REFUSED_SECONDS, STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity.telemetry.metrics import expose
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.cluster import binding, identity, identity_id, pod
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import VM, ReconcileBench, Time, reconcile_bench


@pytest.fixture
async def stage() -> AsyncIterator[ReconcileBench]:
    async with reconcile_bench() as made:
        yield made


def bad(name: str, code: str = "LinkedAuthorizationFailed", status: int = 403) -> BadIdentities:
    error = BadIdentities(f"about {name}", status=status, code=code)
    error.ids = frozenset({identity_id(name).lower()})
    return error


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


async def test_a_named_identity_is_left_out_immediately_and_retried_after_half_a_minute(stage: ReconcileBench) -> None:
    for name in ("one", "two", "three"):
        stage.bind(name)
    stage.hosts.failures = [bad("two")]
    done = await stage.reconcile()
    assert [len(change.adds) for change in stage.hosts.changes] == [3, 2]
    assert stage.time.slept == [1.0]
    assert stage.statuses()["two-default-two"] == "Created"
    assert "Managed Identity Operator" in stage.message("two-default-two")
    assert done.again_after == pytest.approx(29.0)
    before = list(stage.hosts.calls)
    stage.view.pods.upserted(None, pod("second", label="one"))
    await stage.reconcile()
    assert stage.hosts.calls == before, "an event does not hurry it"
    stage.time.now += 30.0
    assert await stage.reconcile() == PassResult()
    assert stage.hosts.changes[-1].adds == (identity_id("two"),)
    assert stage.statuses()["two-default-two"] == "Assigned"
    assert stage.message("two-default-two") == ""


async def test_an_identity_that_stays_refused_is_retried_at_growing_intervals(stage: ReconcileBench) -> None:
    stage.bind()
    pauses = []
    for _ in range(9):
        stage.hosts.failures = [bad("demo")]
        done = await stage.reconcile()
        assert done.again_after is not None
        pauses.append(done.again_after)
        stage.time.now += done.again_after
    # The second of the retry interval passes before the round ends.
    assert [round(pause + 1) for pause in pauses] == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]


async def test_a_changed_identity_is_retried_immediately(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.failures = [bad("demo")]
    await stage.reconcile()
    assert stage.host_reconciler.quarantined() == 1
    assert stage.host_reconciler.retry_identity(identity_id("demo").lower()) == [VM]
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


async def test_a_refusal_without_an_identity_is_narrowed_down_by_halves(stage: ReconcileBench) -> None:
    for number in range(8):
        stage.bind(f"id{number}")
    culprit = identity_id("id0")
    update = stage.hosts.update

    async def refusing(host: Host, change: Change) -> HostIdentities:
        if culprit in change.adds:
            stage.hosts.failures = [Refused("no", status=400, code="InvalidParameter")]
        return await update(host, change)

    stage.hosts.update = refusing  # type: ignore[method-assign]  # one test's Azure
    await stage.reconcile()
    await stage.reconcile()
    assert [len(change.adds) for change in stage.hosts.changes] == [8, 4, 2, 1, 7]
    assert sorted(stage.statuses().values()) == ["Assigned"] * 7 + ["Created"]


async def test_an_identity_that_a_refusal_names_unreadably_blocks_no_other(stage: ReconcileBench) -> None:
    for number in range(4):
        stage.bind(f"id{number}")
    update = stage.hosts.update

    async def refusing(host: Host, change: Change) -> HostIdentities:
        if identity_id("id2") in change.adds:
            stage.hosts.failures = [bad("cut-off")]
        return await update(host, change)

    stage.hosts.update = refusing  # type: ignore[method-assign]  # one test's Azure
    for _ in range(3):
        await stage.reconcile()
    assert sorted(stage.statuses().values()) == ["Assigned"] * 3 + ["Created"]
    assert "grant it the role" in stage.message("id2-default-id2")
    await stage.recorder.flushed()
    told = {each["involvedObject"]["name"] for each in stage.api.store.list("events") if each["type"] == "Warning"}
    assert told == {"id2", "id2-default-id2"}, "no identity is reported before the refused one is known"


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


async def test_a_reason_longer_than_a_message_is_written_once(stage: ReconcileBench) -> None:
    stage.bind()
    stage.view.identities.upserted(None, identity(resource_id=identity_id("x" * 1000)))
    stage.hosts.failures.append(Refused("no", status=400))
    await stage.reconcile()
    assert len(stage.message("demo-default-demo")) == MESSAGE_MAX
    written: list[str] = []

    def note(request: Recorded) -> None:
        written.extend([request.path] if request.method == "PATCH" else [])

    stage.api.intercept = note
    await stage.reconcile()
    assert written == []


async def test_a_pod_that_waits_long_because_azure_does_not_respond_gets_one_event(stage: ReconcileBench) -> None:
    stage.bind()
    stage.hosts.unread = [Unreachable(f"no answer, try {number}") for number in range(12)]
    patched: list[str] = []

    def note(request: Recorded) -> None:
        patched.extend([request.path] if request.method == "PATCH" else [])

    stage.api.intercept = note
    began, told_at = stage.time.now, 0.0
    while stage.hosts.unread:
        stage.time.now += (await stage.reconcile()).again_after or 0.0
        if stage.message("demo-default-demo") and not told_at:
            told_at = stage.time.now - began
    assert 60 <= told_at <= 130
    assert "have failed for more than a minute" in stage.message("demo-default-demo")
    assert len(patched) == 1
    await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}
    assert stage.message("demo-default-demo") == ""


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


async def test_an_api_server_that_rejects_writes_is_retried_later(stage: ReconcileBench) -> None:
    stage.bind()

    def refuse(request: Recorded) -> StatusError | None:
        return StatusError(500, "InternalError", "no") if request.method == "POST" else None

    stage.api.intercept = refuse
    assert (await stage.reconcile()).failed
    assert "update" not in stage.hosts.calls, "no record, no change"
    page = expose(stage.registry).decode()
    assert (
        'aadpodidentity_kubernetes_api_operations_errors_count{operation_type="assigned_identity_addition"} 1.0' in page
    )
    stage.api.intercept = None
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


@pytest.mark.parametrize("status", [403, 422, 500])
async def test_an_object_that_the_api_server_rejects_blocks_no_other(stage: ReconcileBench, status: int) -> None:
    stage.bind()
    await stage.reconcile()
    stage.unbind()
    stage.bind("fine")
    stage.view.identities.upserted(None, identity("over-quota", namespace="team", namespaced=True))
    stage.view.bindings.upserted(None, binding("over-quota", namespace="team", identity="over-quota", selector="team"))
    stage.view.pods.upserted(None, pod("web", namespace="team", label="team"))
    stage.api.store.create("namespaces", {"metadata": {"name": "team"}})

    def refuse(request: Recorded) -> StatusError | None:
        theirs = request.method == "POST" and "/namespaces/team/azureassigned" in request.path
        return StatusError(status, "No", "exceeded quota") if theirs else None

    stage.api.intercept = refuse
    done = await stage.reconcile()
    assert stage.statuses() == {"fine-default-fine": "Assigned"}
    assert {key.rpartition("/")[2] for key in stage.hosts.state.attached} == {"fine"}
    if status == 500:
        assert done.failed
    else:
        assert done == PassResult(again_after=REFUSED_SECONDS), (
            "not failed, which would hold back the host's other events"
        )
        await stage.recorder.flushed()
        told = {each["involvedObject"]["name"] for each in stage.api.store.list("events") if each["type"] == "Warning"}
        assert told == {"over-quota", "web"}, "the binding and the pod"


async def test_an_object_that_the_watch_has_not_reported_is_found(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stored = await stage.client.get(ASSIGNED_IDENTITIES, "default", "demo-default-demo")
    stage.view.assigned.deleted(stored)
    assert (await stage.reconcile()).again_after is not None
    assert await stage.reconcile() == PassResult()
    assert len(stage.statuses()) == 1


async def test_an_object_deleted_by_another_writer_is_created_again(stage: ReconcileBench) -> None:
    stage.bind()
    await stage.reconcile()
    stage.api.store.patch(ASSIGNED, "demo-default-demo", {"metadata": {"finalizers": None}}, "default")
    stage.api.store.delete(ASSIGNED, "demo-default-demo", "default")
    stage.view.pods.upserted(None, pod("demo", label="demo", uid="second"))
    for _ in range(3):
        await stage.reconcile()
    assert stage.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_unreadable_object_under_our_name_blocks_no_other(stage: ReconcileBench) -> None:
    ref = {"apiVersion": "a/v1", "kind": "AzureIdentity", "metadata": {"name": "x"}, "spec": {"type": "zero"}}
    stranger = {"metadata": {"name": "demo-default-demo", "namespace": "default"}, "spec": {"azureIdentityRef": ref}}
    stage.api.store.create(ASSIGNED, stranger | {"status": {"status": "Assigned"}})
    stage.bind()
    stage.bind("other")
    assert await stage.reconcile() == PassResult(again_after=REFUSED_SECONDS)
    assert stage.statuses() == {"demo-default-demo": "Assigned", "other-default-other": "Assigned"}
    assert await stage.warned() == ["AzureIdentityBinding demo", "Pod demo"]


async def test_a_foreign_object_under_our_name_is_not_changed(stage: ReconcileBench, tmp_path: Path) -> None:
    stage.api.store.create(
        ASSIGNED,
        {
            "metadata": {"name": "demo-default-demo", "namespace": "default"},
            "spec": {
                "pod": "other",
                "podNamespace": "else",
                "nodename": "elsewhere",
                "azureIdentityRef": {"apiVersion": "a/v1", "kind": "AzureIdentity", "metadata": {"name": "x"}},
                "azureBindingRef": {"apiVersion": "a/v1", "kind": "AzureIdentityBinding", "metadata": {"name": "x"}},
            },
            "status": {"status": "Assigned"},
        },
    )
    stage.bind()
    for _ in range(3):
        await stage.reconcile()
    assert len(stage.statuses()) == 2
    assert stage.api.store.get(ASSIGNED, "demo-default-demo", "default")["spec"]["pod"] == "other"


def federate(stage: ReconcileBench, *pods: str, client_id: str = "") -> None:
    """An identity that no host has to have, and pods with it."""
    stage.view.identities.upserted(None, identity(type_=3, client_id=client_id))
    stage.view.bindings.upserted(None, binding())
    for name in pods:
        stage.view.pods.upserted(None, pod(name))


async def test_a_write_that_a_pass_and_the_direct_writer_both_need_is_made_once(stage: ReconcileBench) -> None:
    names = [f"p{number}" for number in range(8)]
    writes: list[str] = []

    def note(request: Recorded) -> None:
        writes.extend([request.method] if f"/{ASSIGNED_IDENTITIES.plural}" in request.path else [])

    stage.api.intercept = note
    federate(stage, *names)
    assert [*await asyncio.gather(stage.host_reconciler.assign(VM), stage.reconcile())] == [PassResult(), PassResult()]
    assert writes == ["POST"] * len(names)
    writes.clear()
    federate(stage, client_id="another")
    assert [*await asyncio.gather(stage.reconcile(), stage.host_reconciler.assign(VM))] == [PassResult(), PassResult()]
    assert writes == ["PATCH"] * len(names)
    assert set(stage.statuses().values()) == {"Assigned"}
    assert stage.hosts.calls == []


async def test_a_change_that_requires_no_host_does_not_poll_its_operation(stage: ReconcileBench) -> None:
    stage.bind("hosted")
    await stage.reconcile()
    stage.hosts.state = replace(stage.hosts.state, provisioning_state="Updating")
    stage.host_reconciler.look_again(VM)
    await stage.reconcile()
    calls = len(stage.hosts.calls)
    federate(stage, "web")
    assert await stage.reconcile() == PassResult()
    assert len(stage.hosts.calls) == calls
    assert stage.statuses()["web-default-demo"] == "Assigned"


async def test_a_direct_write_that_the_api_server_rejects_is_retried_by_the_pass(stage: ReconcileBench) -> None:
    def refuse(request: Recorded) -> StatusError | None:
        theirs = request.method == "POST" and f"/{ASSIGNED_IDENTITIES.plural}" in request.path
        return StatusError(403, "Forbidden", "exceeded quota") if theirs else None

    stage.api.intercept = refuse
    federate(stage, "web")
    assert await stage.host_reconciler.assign(VM) == PassResult()
    assert await stage.reconcile() == PassResult(again_after=REFUSED_SECONDS)


@pytest.mark.parametrize("direct", ["assign", "revoke"])
async def test_a_direct_write_whose_pass_ended_is_sent_next_to_the_following_pass(
    stage: ReconcileBench, direct: str
) -> None:
    federate(stage, "web")
    neighbour = {"assign": stage.host_reconciler.assign, "revoke": stage.host_reconciler.revoke}[direct]
    if direct == "revoke":
        await stage.reconcile()
        stage.view.pods.deleted(pod("web"))
    round_ = asyncio.create_task(stage.reconcile())
    async with asyncio.timeout(5.0):
        while not stage.host_reconciler._writer._under_way:
            await asyncio.sleep(0)
    asking = asyncio.create_task(neighbour(VM))
    await asyncio.sleep(0)
    round_.cancel()
    assert await asking == PassResult(again_after=STALE_SECONDS)
    assert await neighbour(VM) == PassResult()
    (left,) = stage.api.store.list(ASSIGNED)
    assert ("deletionTimestamp" in left["metadata"]) == (direct == "revoke")
