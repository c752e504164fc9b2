"""Which pod needs which identity, on VMs and scale sets whose pods and nodes are deleted and created again; and objects
that MIC updates and does not replace, and their names.
"""

import itertools

import msgspec
import pytest

from mic.cluster.limited_groups import COUNTED_MAX
from mic.decisions import documents
from mic.decisions.assignments import AssignmentKey, DesiredAssignment
from mic.decisions.documents import NAME_MAX, distinct_name, plain_name
from podidentity.resources import AzureAssignedIdentity
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import ClusterObject, binding, identity, identity_id, node, pod, set_id, set_node, vm_id


async def assigned_to(world: MicWorld) -> list[tuple[str, str]]:
    """Namespace and name of each object after all is done."""
    await world.settle()
    return sorted(world.objects)


def test_embedded_objects_are_complete() -> None:
    desired = DesiredAssignment(pod(), binding(), identity(type_=0), None, namespaced=False)
    spec = documents.spec_for(desired)
    for reference, kind in (("azureIdentityRef", "AzureIdentity"), ("azureBindingRef", "AzureIdentityBinding")):
        assert spec[reference]["apiVersion"] == "aadpodidentity.k8s.io/v1"
        assert spec[reference]["kind"] == kind
    assert spec["azureIdentityRef"]["spec"]["type"] == 0
    assert msgspec.convert({"spec": spec}, AzureAssignedIdentity).spec.azure_identity_ref == desired.identity


async def test_a_binding_never_reaches_an_identity_of_another_namespace(world: MicWorld) -> None:
    world.add(pod(), identity(namespace="ids"), binding(namespace="default"))
    assert await assigned_to(world) == []


@pytest.mark.parametrize("by", ["flag", "annotation"])
async def test_namespaced_mode_keeps_identity_binding_and_pod_in_one_namespace(by: str) -> None:
    async with MicWorld(force_namespaced=by == "flag") as world:
        world.add(pod(namespace="shop"), pod(namespace="other"))
        world.add(identity(namespace="shop", namespaced=by == "annotation"), binding(namespace="shop"))
        assert await assigned_to(world) == [("shop", "web-shop-demo")]


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
    (event,) = world.api.store.list("events")
    assert event["reason"] == "binding applied"
    assert event["message"].startswith("Binding default/demo-binding applied on node ")


async def test_a_service_principal_works_on_a_node_outside_azure_and_no_managed_identity_does(
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


HOSTS = (vm_id("n0"), set_id("one"))


def mixed(world: MicWorld, *more: ClusterObject) -> None:
    """One VM, and two nodes of one uniform set."""
    world.host(HOSTS[1])
    world.add(set_node("a0", 0, "one"), set_node("a1", 1, "one"), *more)


async def at_rest(world: MicWorld) -> list[set[str]]:
    await world.settle()
    return [world.attached(host) for host in HOSTS]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_node_pod_identity_and_binding_may_arrive_in_any_order(world: MicWorld, order: tuple[int, ...]) -> None:
    world.host(set_id())
    resources = (set_node("s0", 0), pod(node="s0"), identity(), binding())
    for index in order:
        await world.settle_with(resources[index])
    assert world.attached(set_id()) == {"demo"}
    assert world.statuses() == {"web-default-demo": "Assigned"}
    for index in order:
        await world.settle_without(resources[index])
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


OBJECT = ("default", "web-default-demo")


async def one_pod(world: MicWorld) -> None:
    world.host(vm_id("n1"))
    await world.settle_with(node("n1"), identity(), binding(), pod(uid="first"))


async def test_a_pod_recreated_on_its_node_stays_assigned(world: MicWorld) -> None:
    await one_pod(world)
    world.add(pod(uid="second"))
    assert await world.steps() == ["update"]
    written = world.objects[OBJECT]
    assert written.metadata.annotation("aadpodidentity.k8s.io/pod-uid") == "second"
    assert written.status.status == "Assigned"
    assert len(world.changes) == 1


@pytest.mark.parametrize("label", ["other", ""], ids=["changed", "removed"])
async def test_a_pod_whose_label_no_longer_selects_the_binding_loses_object_and_identity(
    world: MicWorld, label: str
) -> None:
    await one_pod(world)
    await world.settle_with(pod(uid="first", label=label))
    assert world.statuses() == {}
    assert world.attached(VM) == set()


async def test_a_new_client_id_is_copied_while_assigned_if_azure_does_not_contradict(world: MicWorld) -> None:
    await one_pod(world)
    world.add(identity(client_id="other"))
    world.host(VM, "demo", client_id="OTHER")
    assert await world.steps() == ["update"]
    assert world.objects[OBJECT].spec.azure_identity_ref.spec.client_id == "other"
    assert world.statuses() == {OBJECT[1]: "Assigned"}


async def test_a_pod_that_moves_keeps_its_object_and_the_old_vm_is_cleaned(world: MicWorld) -> None:
    await one_pod(world)
    world.add(pod(node="n1", uid="second"))
    await world.settle(vm_id("n1"))
    assert world.objects[OBJECT].metadata.label("nodename") == "n1"
    assert world.attached(vm_id("n1")) == {"demo"}
    assert world.attached(VM) == {"demo"}, "the old VM is another worker's"
    await world.settle()
    assert world.attached(VM) == set()
    assert world.objects[OBJECT].metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""


async def test_an_object_changed_by_another_client_is_repaired(world: MicWorld) -> None:
    await one_pod(world)
    before = world.objects[OBJECT]
    changed = world.api.store.get(ASSIGNED, OBJECT[1], OBJECT[0])
    changed["spec"]["nodename"] = "n1"
    changed["metadata"] |= {"labels": {}, "finalizers": []}
    world.api.store.replace(ASSIGNED, changed)
    world.view.assigned.upserted(before, world.objects[OBJECT])
    await world.settle(vm_id("n1"), VM)
    repaired = world.objects[OBJECT]
    assert (repaired.spec.nodename, repaired.metadata.labels) == ("n0", {"nodename": "n0"})
    assert repaired.metadata.finalizers == before.metadata.finalizers != []
    assert world.attached(VM) == {"demo"}


async def test_an_object_deleted_by_another_client_is_replaced_before_it_goes_and_nothing_is_detached(
    world: MicWorld,
) -> None:
    await one_pod(world)
    before = world.objects[OBJECT]
    assert not world.api.store.delete(ASSIGNED, OBJECT[1], OBJECT[0]), "its finalizer remains"
    world.view.assigned.upserted(before, world.objects[OBJECT])
    await world.settle()
    assert [assigned.metadata.deletion_timestamp for assigned in world.objects.values()] == [None]
    assert [assigned.metadata.uid for assigned in world.objects.values()] != [before.metadata.uid]
    assert set(world.statuses().values()) == {"Assigned"}
    assert (world.attached(VM), len(world.changes)) == ({"demo"}, 1)


async def test_a_moved_pods_old_vm_keeps_the_identities_of_other_pods(world: MicWorld) -> None:
    await one_pod(world)
    await world.settle_with(pod("stays"))
    world.add(pod(node="n1", uid="second"))
    await world.settle(vm_id("n1"), vm_id("n0"))
    assert world.attached(VM) == {"demo"}
    assert world.objects[OBJECT].metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""


async def test_a_new_resource_id_replaces_the_old_one_in_one_update(world: MicWorld) -> None:
    await one_pod(world)
    world.add(identity(resource_id=identity_id("newer"), client_id="client-newer"))
    assert await world.steps() == ["update", "change", "confirm", "completedetaches"]
    assert world.attached(VM) == {"newer"}
    assert (world.changes[-1].adds, world.changes[-1].removes) == (
        (identity_id("newer"),),
        (identity_id("demo"),),
    )


async def test_a_resource_id_that_changes_only_its_spelling_costs_no_azure_call(world: MicWorld) -> None:
    await one_pod(world)
    world.add(identity(resource_id=identity_id("demo").replace("resourcegroups", "resourceGroups")))
    assert await world.steps() == ["update"]
    assert world.statuses() == {OBJECT[1]: "Assigned"}


async def test_a_pod_that_returns_before_the_old_vm_was_cleaned_has_no_pending_detach(world: MicWorld) -> None:
    await one_pod(world)
    world.add(pod(node="n1", uid="second"))
    await world.settle(vm_id("n1"))
    world.add(pod(node="n0", uid="third"))
    await world.settle(vm_id("n0"), vm_id("n1"))
    assert world.attached(VM) == {"demo"}
    assert world.attached(vm_id("n1")) == set()
    assert [sorted(change.removes) for change in world.changes if change.removes] == [[identity_id("demo")]]


async def test_a_pod_that_moves_within_its_scale_set_costs_no_azure_call(world: MicWorld) -> None:
    world.host(set_id())
    world.add(set_node("s0", 0), set_node("s1", 1), identity(), binding(), pod(node="s0"))
    await world.settle(set_id())
    world.add(pod(node="s1", uid="second"))
    await world.settle(set_id())
    assert world.objects[OBJECT].metadata.label("nodename") == "s1"
    assert len(world.changes) == 1


async def test_an_identity_that_becomes_namespaced_moves_its_object_and_stays_attached(world: MicWorld) -> None:
    await world.settle_with(identity(namespace="shop"), binding(namespace="shop"), pod(namespace="shop"))
    world.add(identity(namespace="shop", namespaced=True))
    await world.settle()
    assert list(world.objects) == [("shop", "web-shop-demo")]
    assert len(world.changes) == 1


async def test_two_pods_whose_joined_names_are_equal_both_get_their_object(world: MicWorld) -> None:
    await world.settle_with(identity(), binding(), pod("a-b", namespace="c"))
    world.add(pod("a", namespace="b-c"))
    await world.settle()
    newcomer = distinct_name(AssignmentKey("b-c", "a", "default", "demo"))
    assert world.statuses() == {"a-b-c-demo": "Assigned", newcomer: "Assigned"}
    assert newcomer.startswith("a-b-c-demo-")
    assert len(newcomer) == len("a-b-c-demo-") + 10


async def test_concurrently_created_pods_never_share_an_object_name(world: MicWorld) -> None:
    await world.settle_with(identity(), binding(), pod("a-b", namespace="c"), pod("a", namespace="b-c"))
    assert len(world.objects) == 2


async def test_a_name_over_the_limit_is_truncated_and_made_unique_and_one_of_the_limit_is_not(world: MicWorld) -> None:
    key = AssignmentKey("default", "p" * (NAME_MAX - len("-default-demo")), "default", "demo")
    assert len(plain_name(key)) == NAME_MAX
    await world.settle_with(identity(), binding(), pod(key.pod))
    assert list(world.objects) == [("default", plain_name(key))]
    await world.settle_with(pod("p" * 250 + "x"), pod("p" * 250 + "y"))
    assert len(world.objects) == 3
    assert all(len(name) == NAME_MAX for _, name in world.objects)


async def test_a_pod_that_returns_while_its_old_object_is_terminating_gets_another_name(
    world: MicWorld,
) -> None:
    await world.settle_with(identity(), binding(), pod(uid="first"))
    existing = world.existing("web-default-demo")
    world.remove(pod())
    await world.host_reconciler.revoke(VM)
    world.add(pod(uid="second"))
    assert await world.steps() == ["create", "release"]
    (left,) = world.objects
    assert left == ("default", distinct_name(existing.assignment_key))
    assert len(world.changes) == 1, "the identity must not leave the VM in between"


async def test_an_assignment_that_returns_while_both_its_names_are_taken_gets_a_third_one() -> None:
    again = binding("again", namespace="team")
    async with MicWorld(grace_seconds=100.0) as world:
        await world.settle_with(identity(), binding(), pod())
        world.add(identity(namespace="team", resource_id=identity_id("other"), client_id="client-other"), again)
        await world.settle()
        assert len(world.objects) == 2
        world.remove(again)
        assert await world.steps() == ["revoke"]
        world.add(again)
        assert await world.steps() == ["create", "release"]
        assert set(world.statuses().values()) == {"Assigned"}
        assert world.attached(VM) == {"demo", "other"}
        assert len(world.changes) == 2


async def test_an_embedded_binding_stays_when_others_are_added_and_after_a_restart(world: MicWorld) -> None:
    def give(letter: str) -> None:
        for number in range(COUNTED_MAX):
            name = f"{letter}{number:03}"
            world.add(identity(name, namespaced=True), binding(name, identity=name))

    def used() -> set[str]:
        return {assigned.spec.azure_identity_ref.metadata.name for assigned in world.objects.values()}

    world.add(pod())
    give("m")
    await world.settle()
    before = used()
    assert len(before) == COUNTED_MAX
    give("a")  # before all others by name
    await world.settle()
    assert used() == before
    world.restart()
    await world.settle()
    assert used() == before
