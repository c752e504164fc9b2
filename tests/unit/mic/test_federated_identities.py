"""Identities of type 3: MIC assigns them immediately, in their own namespace, without any request to Azure."""

import msgspec
import pytest

from mic.decisions.assignments import misconfigured
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import EXCHANGE_ANNOTATION, Meta, Node
from podidentity_sandbox.kubeapi.history import Change
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, pod, set_node

TEAM = "team"
OBJECT = (TEAM, "web-team-demo")


def team(world: MicWorld, type_: int, *, namespaced: bool = False) -> None:
    """Let the identity of the team have this type. A federated one keeps its resource id."""
    world.add(identity(namespace=TEAM, type_=type_, tenant_id="t", namespaced=namespaced))
    world.add(binding(namespace=TEAM))


def usable(world: MicWorld) -> dict[str, int]:
    """Return the namespaces of the objects that NMI serves, by type."""
    return {
        each.metadata.namespace: each.spec.azure_identity_ref.spec.type
        for each in world.objects.values()
        if each.status.status == "Assigned" and each.metadata.deletion_timestamp is None
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


async def test_it_does_not_wait_for_an_update_of_its_host(world: MicWorld) -> None:
    await world.assign()
    world.host(VM, "demo", provisioning_state="Updating")
    await world.reconcile()
    calls = len(world.hosts.calls)
    team(world, 3)
    world.add(pod(namespace=TEAM))
    assert await world.host_reconciler.assign(VM) == PassResult()
    assert usable(world)[TEAM] == 3
    assert len(world.hosts.calls) == calls


async def test_a_pod_stays_assigned_when_its_identity_becomes_federated_and_can_be_changed_back(
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


async def test_pods_of_other_namespaces_lose_an_identity_that_becomes_federated(world: MicWorld) -> None:
    team(world, 0)
    await world.settle_with(pod("stranger"))
    assert world.statuses() == {"stranger-default-demo": "Assigned"}
    team(world, 3)
    await world.settle()
    assert world.objects == {}
    assert world.attached(VM) == set()


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
