"""Assignments of identities that no host needs, written directly; the order of those of the pod's own namespace; and
identities of type 3, which are assigned immediately, in their own namespace, without any request to Azure.
"""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from mic.decisions.assignments import misconfigured
from mic.reconciliation.host_reconciler import REFUSED_SECONDS, STALE_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import ASSIGNED_IDENTITIES, EXCHANGE_ANNOTATION, Meta, Node
from podidentity_sandbox.kubeapi.history import Change
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, node, pod, set_node

OBJECTS = f"/{ASSIGNED_IDENTITIES.plural}"


def federate(world: MicWorld, *pods: str, client_id: str = "") -> None:
    """An identity that no host has to have, and pods with it."""
    world.add(identity(type_=3, client_id=client_id), binding(), *(pod(name) for name in pods))


async def test_a_write_that_a_pass_and_the_direct_writer_both_need_is_made_once(world: MicWorld) -> None:
    names = [f"p{number}" for number in range(8)]
    federate(world, *names)
    assert [*await asyncio.gather(world.host_reconciler.assign(VM), world.reconcile())] == [PassResult(), PassResult()]
    assert world.api.written(OBJECTS) == ["POST"] * len(names)
    world.api.requests.clear()
    federate(world, client_id="another")
    assert [*await asyncio.gather(world.reconcile(), world.host_reconciler.assign(VM))] == [PassResult(), PassResult()]
    assert world.api.written(OBJECTS) == ["PATCH"] * len(names)
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
    world.api.refuse(403, "Forbidden", "POST", what=OBJECTS)
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
    reconciling = asyncio.create_task(neighbour(VM))
    await asyncio.sleep(0)
    reconcile_pass.cancel()
    await asyncio.sleep(1.0)
    world.api.resume()
    assert await reconciling == PassResult(again_after=STALE_SECONDS)
    assert await neighbour(VM) == PassResult()
    (left,) = world.api.store.list(ASSIGNED)
    assert ("deletionTimestamp" in left["metadata"]) == (direct == "revoke")


OWN, FOREIGN = "web-shop-own", "web-shop-any"
"""The objects of the pod shop/web. That of its own namespace is in shop, the other one in default."""
POD_UID = "aadpodidentity.k8s.io/pod-uid"


def bind(world: MicWorld, *, own_type: int = 0, foreign_type: int = 1) -> None:
    for namespace, name, type_ in (("evil", "any", foreign_type), ("shop", "own", own_type)):
        its = identity(name, namespace=namespace, type_=type_, namespaced=namespace == "shop")
        world.add(its, binding(name, namespace=namespace, identity=name))


def stored_uids(world: MicWorld) -> dict[str, str]:
    """The uid of the pod that each stored object was made for."""
    return {
        document["metadata"]["name"]: document["metadata"]["annotations"][POD_UID]
        for document in world.api.store.list(ASSIGNED)
    }


def own_objects(world: MicWorld) -> list[str]:
    """A list of the pod's uid in the object of its own namespace, at each write of the other one; empty without it."""
    seen: list[str] = []

    def note(request: Recorded) -> None:
        created = request.method == "POST" and f"namespaces/default{OBJECTS}" in request.path
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
    world.api.refuse(403, "Forbidden", what=f"namespaces/shop{OBJECTS}")
    bind(world)
    world.add(pod(namespace="shop"))
    assert await world.reconcile() == PassResult(again_after=REFUSED_SECONDS)
    assert world.statuses() == {}
    world.api.intercept = None
    await world.reconcile()
    assert world.statuses() == {OWN: "Assigned", FOREIGN: "Assigned"}


async def test_pods_without_an_identity_of_their_own_namespace_do_not_wait(world: MicWorld) -> None:
    bind(world)
    world.add(pod(namespace="shop"), pod(namespace="other"))
    await world.host_reconciler.assign(VM)
    assert world.statuses() == {"web-other-any": "Assigned"}


async def test_an_identity_that_its_node_can_never_have_delays_no_other(world: MicWorld) -> None:
    world.add(node(provider_id="kind://docker/kind/n0"), pod(namespace="shop"))
    for namespace, name, type_ in (("evil", "any", 1), ("shop", "own", 0)):
        world.add(identity(name, namespace=namespace, type_=type_), binding(name, namespace=namespace, identity=name))
    await world.settle("node:n0")
    assert world.statuses() == {FOREIGN: "Assigned"}


TEAM = "team"
OBJECT = (TEAM, "web-team-demo")


def team(world: MicWorld, type_: int, *, namespaced: bool = False) -> None:
    """Let the identity of the team have this type. A federated one keeps its resource id."""
    world.add(identity(namespace=TEAM, type_=type_, tenant_id="t", namespaced=namespaced))
    world.add(binding(namespace=TEAM))


def usable(world: MicWorld) -> dict[str, int]:
    """Return the namespaces of the objects that NMI serves, by type."""
    return {
        assigned.metadata.namespace: assigned.spec.azure_identity_ref.spec.type
        for assigned in world.objects.values()
        if assigned.status.status == "Assigned" and assigned.metadata.deletion_timestamp is None
    }


def followed(world: MicWorld) -> list[dict[str, int]]:
    """Return a list of the usable objects at each write from now on."""
    seen: list[dict[str, int]] = []

    def note(_change: Change) -> None:
        seen.append(usable(world))

    world.api.store.subscribe(ASSIGNED, note)
    return seen


async def test_it_is_assigned_on_any_node_in_its_own_namespace_without_resource_manager(world: MicWorld) -> None:
    world.add(set_node("s0", 0), Node(metadata=Meta(name="bare")))
    team(world, 3)
    seen = followed(world)
    pods = [pod(f"on-{name}", namespace=TEAM, node=name) for name in ("n0", "s0", "bare")]
    await world.settle_with(*pods, pod("stranger"))
    assert {namespace for namespace, _ in world.objects} == {TEAM}
    assert set(world.statuses()) == {f"on-{name}-team-demo" for name in ("n0", "s0", "bare")}
    assert seen == [{TEAM: 3}] * 3, "it is served from the first moment"
    await world.settle_without(*pods)
    assert world.objects == {}
    assert world.hosts.calls == []


async def test_pods_of_other_namespaces_lose_an_identity_that_becomes_federated(world: MicWorld) -> None:
    team(world, 0)
    await world.settle_with(pod("stranger"))
    assert world.statuses() == {"stranger-default-demo": "Assigned"}
    team(world, 3)
    await world.settle()
    assert world.objects == {}
    assert world.attached(VM) == set()


async def test_a_pod_stays_assigned_when_its_identity_becomes_federated_and_is_changed_back(
    world: MicWorld,
) -> None:
    team(world, 0)
    await world.settle_with(pod(namespace=TEAM))
    assert usable(world) == {"default": 0}
    seen = followed(world)
    team(world, 3)
    await world.settle()
    assert all(seen), "at each write the pod had one of the two"
    assert (usable(world), len(world.objects), world.attached(VM)) == ({TEAM: 3}, 1, set())
    team(world, 0)
    await world.settle()
    assert (usable(world), len(world.objects), world.attached(VM)) == ({"default": 0}, 1, {"demo"})
    assert len(world.changes) == 3


@pytest.mark.parametrize("forced", [True, False])
async def test_an_in_place_change_of_a_namespaced_identity_stays_assigned(forced: bool) -> None:
    async with MicWorld(force_namespaced=forced) as world:
        team(world, 0, namespaced=not forced)
        await world.settle_with(pod(namespace=TEAM))
        before, seen = world.objects[OBJECT], followed(world)
        team(world, 3)
        await world.settle()
        after = world.objects[OBJECT]
        assert (usable(world), world.attached(VM)) == ({TEAM: 3}, set())
        assert after.metadata.uid == before.metadata.uid
        assert after.metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""
        assert all(seen)


async def test_a_changed_exchange_reaches_the_assigned_identity(world: MicWorld) -> None:
    team(world, 3)
    await world.settle_with(pod(namespace=TEAM))
    for value in ("identityBindings", ""):
        plain = identity(namespace=TEAM, type_=3, tenant_id="t")
        annotated = msgspec.structs.replace(plain.metadata, annotations={EXCHANGE_ANNOTATION: value} if value else {})
        await world.settle_with(msgspec.structs.replace(plain, metadata=annotated))
        assert world.objects[OBJECT].spec.azure_identity_ref.metadata.annotation(EXCHANGE_ANNOTATION) == value


def test_an_identity_that_only_nmi_refuses_is_assigned_like_a_service_principal() -> None:
    for type_ in (1, 2, 3):
        assert misconfigured(identity(type_=type_, resource_id="", client_id=" ")) == ""
