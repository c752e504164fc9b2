"""Assignments of one pod for identities of its own namespace and of another. NMI must see those of its own first, else
the pod gets what the other namespace's author chose until its own identity is attached."""

import asyncio

import pytest

from mic.reconciliation.host_reconciler import REFUSED_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, node, pod

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
