"""Which pod needs which identity, on VMs and scale sets whose pods and nodes are deleted and created again."""

import itertools

import msgspec
import pytest

from mic.decisions import documents
from mic.decisions.assignments import DesiredAssignment
from mic.decisions.policy import Policy
from podidentity.resources import AzureAssignedIdentity, Meta
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import GROUP, ClusterObject, binding, identity, node, pod, set_id, set_node, vm_id


async def assigned_to(world: MicWorld) -> list[tuple[str, str]]:
    """Namespace and name of each object after all is done."""
    await world.settle()
    return sorted(world.objects)


async def test_a_bound_pod_gets_one_object_named_after_pod_namespace_and_identity(world: MicWorld) -> None:
    world.add(pod(namespace="shop"), identity(), binding())
    assert await assigned_to(world) == [("default", "web-shop-demo")]


def test_embedded_objects_are_complete() -> None:
    desired = DesiredAssignment(pod(), binding(), identity(type_=0), None, namespaced=False)
    spec = documents.spec_for(desired)
    for reference, kind in (("azureIdentityRef", "AzureIdentity"), ("azureBindingRef", "AzureIdentityBinding")):
        assert spec[reference]["apiVersion"] == "aadpodidentity.k8s.io/v1"
        assert spec[reference]["kind"] == kind
    assert spec["azureIdentityRef"]["spec"]["type"] == 0
    assert msgspec.convert({"spec": spec}, AzureAssignedIdentity).spec.azure_identity_ref == desired.identity


@pytest.mark.parametrize(
    "idle",
    [
        pod(node=""),
        pod(label=""),
        pod(label="another"),
        pod(phase="Succeeded"),
        pod(phase="Failed"),
        pod(node="unknown"),
    ],
    ids=["not-scheduled", "no-label", "another-label", "succeeded", "failed", "unknown-node"],
)
async def test_a_pod_that_is_not_running_or_unbound_needs_no_assignment(world: MicWorld, idle: ClusterObject) -> None:
    world.add(idle, identity(), binding())
    assert await assigned_to(world) == []


async def test_a_finished_pods_assignment_is_revoked(world: MicWorld) -> None:
    world.add(pod(), identity(), binding())
    assert await assigned_to(world)
    await world.settle_with(pod(phase="Succeeded"))
    assert not world.objects
    assert world.attached(VM) == set()


async def test_a_binding_reaches_pods_of_other_namespaces_by_default(world: MicWorld) -> None:
    world.add(pod(namespace="shop"), identity(namespace="ids"), binding(namespace="ids"))
    assert await assigned_to(world) == [("default", "web-shop-demo")]


async def test_a_binding_never_reaches_an_identity_of_another_namespace(world: MicWorld) -> None:
    world.add(pod(), identity(namespace="ids"), binding(namespace="default"))
    assert await assigned_to(world) == []


@pytest.mark.parametrize("by", ["flag", "annotation"])
async def test_namespaced_mode_keeps_identity_binding_and_pod_in_one_namespace(by: str) -> None:
    async with MicWorld(force_namespaced=by == "flag") as world:
        for namespace in ("shop", "other"):
            world.add(pod(namespace=namespace))
        world.add(identity(namespace="shop", namespaced=by == "annotation"), binding(namespace="shop"))
        assert await assigned_to(world) == [("shop", "web-shop-demo")]


@pytest.mark.parametrize(
    "resource_id",
    ["", "demo", "/subscriptions/s/resourcegroups/rg/providers/Microsoft.Compute/virtualMachines/x"],
    ids=["empty", "name-only", "a-vm"],
)
async def test_an_identity_with_a_malformed_resource_id_is_ignored(world: MicWorld, resource_id: str) -> None:
    world.add(pod(), identity(resource_id=resource_id), binding())
    assert await assigned_to(world) == []


@pytest.mark.parametrize("type_", [1, 2])
async def test_a_service_principal_is_assigned_without_an_azure_call(world: MicWorld, type_: int) -> None:
    world.add(pod(), identity(type_=type_, resource_id=""), binding())
    assert await assigned_to(world) == [("default", "web-default-demo")]
    assert world.statuses() == {"web-default-demo": "Assigned"}
    assert world.changes == []
    await world.recorder.flushed()
    assert {each["reason"] for each in world.api.store.list("events")} == {"binding applied"}


async def test_a_service_principal_works_on_a_node_outside_azure_and_a_managed_identity_does_not(
    world: MicWorld,
) -> None:
    world.add(node(provider_id="kind://docker/kind/n0"), pod(), pod("managed", label="msi"))
    world.add(identity(type_=1), binding(), identity("msi"), binding("msi", identity="msi", selector="msi"))
    await world.settle("node:n0")
    assert world.statuses() == {"web-default-demo": "Assigned"}


async def test_two_bindings_to_one_identity_make_one_object_that_keeps_its_binding(world: MicWorld) -> None:
    world.add(pod(), identity(), binding("later"))
    assert await assigned_to(world) == [("default", "web-default-demo")]
    world.add(binding("earlier"))
    assert await world.steps() == []
    await world.settle_without(binding("later"))
    assert world.objects["default", "web-default-demo"].spec.azure_binding_ref.metadata.name == "earlier"
    assert len(world.changes) == 1


FLEX = f"{GROUP}/Microsoft.Compute/virtualMachines/flex_1a2b3c"
"""An instance of a Flexible scale set is a separate VM to Azure."""
HOSTS = (vm_id("n0"), set_id("one"), set_id("two"), FLEX)


def mixed(world: MicWorld, *more: ClusterObject, policy: Policy | None = None) -> None:
    """One VM, two nodes of one uniform set, one of another, one of a Flexible set, and one that is not Azure's."""
    world.policy = policy or Policy()
    for host in HOSTS:
        world.host(host)
    world.add(
        node("n0"),
        set_node("a0", 0, "one"),
        set_node("a1", 1, "one"),
        set_node("b0", 0, "two"),
        node("f0", f"azure://{FLEX}"),
        node("k0", "kind://docker/kind/k0"),
        *more,
    )


async def at_rest(world: MicWorld) -> list[set[str]]:
    await world.settle()
    return [world.attached(host) for host in HOSTS]


async def test_each_kind_of_host_gets_the_identities_of_its_own_pods(world: MicWorld) -> None:
    mixed(
        world,
        identity(),
        binding(),
        identity("other"),
        binding("other", identity="other", selector="other"),
        pod("vm", node="n0"),
        pod("set", node="a0"),
        pod("same-set", node="a1", label="other"),
        pod("flex", node="f0", label="other"),
        pod("elsewhere", node="k0"),
    )
    assert await at_rest(world) == [{"demo"}, {"demo", "other"}, set(), {"other"}]
    assert len(world.changes) == 3, "one for each host that needs any"
    assert set(world.statuses().values()) == {"Assigned"}
    assert "elsewhere-default-demo" not in world.statuses()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_node_pod_identity_and_binding_may_arrive_in_any_order(world: MicWorld, order: tuple[int, ...]) -> None:
    world.host(set_id())
    things = (set_node("s0", 0), pod(node="s0"), identity(), binding())
    for each in order:
        await world.settle_with(things[each])
    assert world.attached(set_id()) == {"demo"}
    assert world.statuses() == {"web-default-demo": "Assigned"}
    for each in order:
        await world.settle_without(things[each])
    assert world.objects == {}
    # If the node was deleted first, MIC had no host to detach it from.
    assert world.attached(set_id()) == ({"demo"} if order[0] == 0 else set())


async def test_a_node_that_disappears_and_returns_keeps_or_regains_the_identities_of_its_pods(world: MicWorld) -> None:
    mixed(world, identity(), binding(), pod(node="n0"))
    await at_rest(world)
    world.remove(node("n0"))
    await at_rest(world)
    assert world.objects == {}, "a pod on a node that does not exist wants nothing"
    world.add(node("n0"))
    assert (await at_rest(world))[0] == {"demo"}
    assert world.statuses() == {"web-default-demo": "Assigned"}


async def test_a_scale_set_node_that_disappears_takes_nothing_from_the_others(world: MicWorld) -> None:
    mixed(world, identity(), binding(), pod("here", node="a0"), pod("there", node="a1"))
    await at_rest(world)
    world.remove(set_node("a0", 0, "one"))
    world.remove(pod("here", node="a0"))
    assert (await at_rest(world))[1] == {"demo"}
    world.add(set_node("a0", 0, "one"), pod("here", node="a0", uid="second"))
    assert (await at_rest(world))[1] == {"demo"}
    assert len(world.changes) == 1


async def test_a_node_name_reused_by_another_vm_is_another_host(world: MicWorld) -> None:
    mixed(world, identity(), binding(), pod(node="n0"))
    await at_rest(world)
    world.host(vm_id("replaced"))
    await world.settle_with(node("n0", f"azure://{vm_id('replaced')}"))
    assert world.attached(vm_id("replaced")) == {"demo"}
    assert world.statuses() == {"web-default-demo": "Assigned"}


async def test_a_scale_set_spelled_in_two_ways_is_one_host(world: MicWorld) -> None:
    mixed(world, identity(), binding(), pod("here", node="a0"), pod("there", node="a9"))
    world.add(node("a9", f"azure://{set_id('one').upper()}/virtualMachines/9"))
    assert (await at_rest(world))[1] == {"demo"}
    assert len(world.changes) == 1


async def test_the_operating_system_of_a_node_does_not_matter(world: MicWorld) -> None:
    labelled = Meta(name="win", labels={"kubernetes.io/os": "windows"})
    windows = msgspec.structs.replace(set_node("win", 0), metadata=labelled)
    world.host(set_id())
    await world.settle_with(windows, identity(), binding(), pod(node="win"))
    assert world.attached(set_id()) == {"demo"}
