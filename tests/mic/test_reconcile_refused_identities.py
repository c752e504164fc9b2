"""Reconcile passes in which Azure refuses one identity: MIC attaches the others and retries that one later."""

import pytest

from mic.azure.errors import BadIdentities, Refused
from mic.azure.identities import Attached, Change, HostIdentities
from mic.decisions.documents import MESSAGE_MAX
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import Host
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.cluster import identity_id, pod
from tests.mic.reconcile_bench import VM, ReconcileBench


def bad(name: str, code: str = "LinkedAuthorizationFailed", status: int = 403) -> BadIdentities:
    error = BadIdentities(f"about {name}", status=status, code=code)
    error.ids = frozenset({identity_id(name).lower()})
    return error


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
    # The second of the retry interval passes before the pass ends.
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
    reported = {each["involvedObject"]["name"] for each in stage.api.store.list("events") if each["type"] == "Warning"}
    assert reported == {"id2", "id2-default-id2"}, "no identity is reported before the refused one is known"


async def test_a_reason_longer_than_a_message_is_written_once(stage: ReconcileBench) -> None:
    stage.bind()
    there = [identity_id(f"{number}{'x' * 120}").lower() for number in range(9)]
    stage.hosts.state = HostIdentities(type="UserAssigned", attached={each: Attached(each) for each in there})
    refused = BadIdentities("no", status=400)
    refused.ids = frozenset(there)
    stage.hosts.failures.append(refused)
    await stage.reconcile()
    assert len(stage.message("demo-default-demo")) == MESSAGE_MAX
    written: list[str] = []

    def note(request: Recorded) -> None:
        written.extend([request.path] if request.method == "PATCH" else [])

    stage.api.intercept = note
    await stage.reconcile()
    assert written == []
