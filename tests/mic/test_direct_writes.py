"""Assignments of identities that no host needs: the direct writer and the reconcile pass write each object once."""

import asyncio
from dataclasses import replace

import pytest

from mic.reconciliation.host_reconciler import REFUSED_SECONDS, STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.cluster import binding, identity, pod
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.reconcile_bench import VM, ReconcileBench


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
    reconcile_pass = asyncio.create_task(stage.reconcile())
    async with asyncio.timeout(5.0):
        while not stage.host_reconciler._writer._under_way:
            await asyncio.sleep(0)
    asking = asyncio.create_task(neighbour(VM))
    await asyncio.sleep(0)
    reconcile_pass.cancel()
    assert await asking == PassResult(again_after=STALE_SECONDS)
    assert await neighbour(VM) == PassResult()
    (left,) = stage.api.store.list(ASSIGNED)
    assert ("deletionTimestamp" in left["metadata"]) == (direct == "revoke")
