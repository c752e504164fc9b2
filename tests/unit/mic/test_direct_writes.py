"""Assignments of identities that no host needs, written directly; and the order of those of the pod's own namespace."""

import asyncio
from dataclasses import replace

import pytest

from mic.reconciliation.host_reconciler import REFUSED_SECONDS, STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, node, pod


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


OWN, FOREIGN = "web-shop-own", "web-shop-any"
"""The objects of the pod shop/web. That of its own namespace is in shop, the other one in default."""
POD_UID = "aadpodidentity.k8s.io/pod-uid"


def bind(world: MicWorld, *, own_type: int = 0, foreign_type: int = 1) -> None:
    for namespace, name, type_ in (("evil", "any", foreign_type), ("shop", "own", own_type)):
        its = identity(name, namespace=namespace, type_=type_, namespaced=namespace == "shop")
        world.add(its)
        world.add(binding(name, namespace=namespace, identity=name))


def stored_uids(world: MicWorld) -> dict[str, str]:
    """The uid of the pod that each stored object was made for."""
    return {
        each["metadata"]["name"]: each["metadata"]["annotations"][POD_UID] for each in world.api.store.list(ASSIGNED)
    }


def own_objects(world: MicWorld) -> list[str]:
    """A list of the pod's uid in the object of its own namespace, at each write of the other one; empty without it."""
    seen: list[str] = []

    def note(request: Recorded) -> None:
        created = request.method == "POST" and f"namespaces/default/{ASSIGNED_IDENTITIES.plural}" in request.path
        if created or (request.method == "PATCH" and FOREIGN in request.path):
            seen.append(stored_uids(world).get(OWN, ""))

    world.api.intercept = note
    return seen


@pytest.mark.parametrize("own_type", [0, 1])
@pytest.mark.parametrize("foreign_type", [0, 1])
async def test_that_of_the_other_namespace_is_written_after_that_of_the_pods_own(
    world: MicWorld, own_type: int, foreign_type: int
) -> None:
    seen = own_objects(world)
    bind(world, own_type=own_type, foreign_type=foreign_type)
    for uid in ("first", "successor"):
        world.add(pod(namespace="shop", uid=uid))
        await world.host_reconciler.assign(VM)
        await asyncio.gather(world.host_reconciler.assign(VM), world.reconcile())
        assert stored_uids(world) == {OWN: uid, FOREIGN: uid}
        assert set(seen) == {uid}
        assert set(world.statuses().values()) == {"Assigned"}
        seen.clear()


async def test_it_is_not_written_while_the_api_server_refuses_that_of_the_pods_own(world: MicWorld) -> None:
    refusing = True

    def refuse(request: Recorded) -> StatusError | None:
        own = f"namespaces/shop/{ASSIGNED_IDENTITIES.plural}" in request.path
        return StatusError(403, "Forbidden", "exceeded quota") if own and refusing else None

    world.api.intercept = refuse
    bind(world)
    world.add(pod(namespace="shop"))
    assert await world.reconcile() == PassResult(again_after=REFUSED_SECONDS)
    assert world.statuses() == {}
    refusing = False
    await world.reconcile()
    assert world.statuses() == {OWN: "Assigned", FOREIGN: "Assigned"}


async def test_pods_without_an_identity_of_their_own_namespace_do_not_wait(world: MicWorld) -> None:
    bind(world)
    world.add(pod(namespace="shop"))
    world.add(pod(namespace="other"))
    await world.host_reconciler.assign(VM)
    assert world.statuses() == {"web-other-any": "Assigned"}


async def test_an_identity_that_its_node_can_never_have_delays_no_other(world: MicWorld) -> None:
    world.add(node(provider_id="kind://docker/kind/n0"), pod(namespace="shop"))
    for namespace, name, type_ in (("evil", "any", 1), ("shop", "own", 0)):
        world.add(identity(name, namespace=namespace, type_=type_), binding(name, namespace=namespace, identity=name))
    await world.settle("node:n0")
    assert world.statuses() == {FOREIGN: "Assigned"}
