"""Assignments of identities that no host needs: the direct writer and the reconcile pass write each object once."""

import asyncio
from dataclasses import replace

import pytest

from mic.reconciliation.host_reconciler import REFUSED_SECONDS, STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, pod


def federate(world: MicWorld, *pods: str, client_id: str = "") -> None:
    """An identity that no host has to have, and pods with it."""
    world.add(identity(type_=3, client_id=client_id))
    world.add(binding())
    for name in pods:
        world.add(pod(name))


async def test_a_write_that_a_pass_and_the_direct_writer_both_need_is_made_once(world: MicWorld) -> None:
    names = [f"p{number}" for number in range(8)]
    writes: list[str] = []

    def note(request: Recorded) -> None:
        writes.extend([request.method] if f"/{ASSIGNED_IDENTITIES.plural}" in request.path else [])

    world.api.intercept = note
    federate(world, *names)
    assert [*await asyncio.gather(world.host_reconciler.assign(VM), world.reconcile())] == [PassResult(), PassResult()]
    assert writes == ["POST"] * len(names)
    writes.clear()
    federate(world, client_id="another")
    assert [*await asyncio.gather(world.reconcile(), world.host_reconciler.assign(VM))] == [PassResult(), PassResult()]
    assert writes == ["PATCH"] * len(names)
    assert set(world.statuses().values()) == {"Assigned"}
    assert world.hosts.calls == []


async def test_a_change_that_requires_no_host_does_not_poll_its_operation(world: MicWorld) -> None:
    await world.assign("hosted")
    world.hosts.state = replace(world.hosts.state, provisioning_state="Updating")
    await world.look()
    calls = len(world.hosts.calls)
    federate(world, "web")
    assert await world.reconcile() == PassResult()
    assert len(world.hosts.calls) == calls
    assert world.statuses()["web-default-demo"] == "Assigned"


async def test_a_direct_write_that_the_api_server_rejects_is_retried_by_the_pass(world: MicWorld) -> None:
    def refuse(request: Recorded) -> StatusError | None:
        theirs = request.method == "POST" and f"/{ASSIGNED_IDENTITIES.plural}" in request.path
        return StatusError(403, "Forbidden", "exceeded quota") if theirs else None

    world.api.intercept = refuse
    federate(world, "web")
    assert await world.host_reconciler.assign(VM) == PassResult()
    assert await world.reconcile() == PassResult(again_after=REFUSED_SECONDS)


@pytest.mark.parametrize("direct", ["assign", "revoke"])
async def test_a_direct_write_whose_pass_ended_is_sent_next_to_the_following_pass(world: MicWorld, direct: str) -> None:
    federate(world, "web")
    neighbour = {"assign": world.host_reconciler.assign, "revoke": world.host_reconciler.revoke}[direct]
    if direct == "revoke":
        await world.reconcile()
        world.remove(pod("web"))
    world.api.pause()
    reconcile_pass = asyncio.create_task(world.reconcile())
    while not world.host_reconciler._writer._under_way:
        await asyncio.sleep(0)
    asking = asyncio.create_task(neighbour(VM))
    await asyncio.sleep(0)
    reconcile_pass.cancel()
    await asyncio.sleep(1.0)
    world.api.resume()
    assert await asking == PassResult(again_after=STALE_SECONDS)
    assert await neighbour(VM) == PassResult()
    (left,) = world.api.store.list(ASSIGNED)
    assert ("deletionTimestamp" in left["metadata"]) == (direct == "revoke")
