"""Objects that MIC updates and does not replace when their pod, node, binding or identity changes, and their names."""

import pytest

from mic.decisions.assignments import AssignmentKey
from mic.decisions.documents import NAME_MAX, distinct_name, plain_name
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod, set_id, set_node, vm_id

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
    world.add(pod(uid="first", label=label))
    await world.settle()
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


async def test_an_object_is_created_at_its_new_name_before_the_old_one_is_revoked(world: MicWorld) -> None:
    await world.settle_with(identity(namespace="shop"), binding(namespace="shop"), pod(namespace="shop"))
    world.add(identity(namespace="shop", type_=3))
    assert await world.steps() == ["create"]
    assert {key: each.status.status for key, each in world.objects.items()} == {
        ("default", "web-shop-demo"): "Assigned",
        ("shop", "web-shop-demo"): "Assigned",
    }
    assert world.attached(VM) == {"demo"}
    await world.settle()
    assert list(world.objects) == [("shop", "web-shop-demo")]
    assert world.attached(VM) == set()


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


async def test_two_identities_of_one_name_in_two_namespaces_both_work(world: MicWorld) -> None:
    for namespace in ("one", "two"):
        resource_id = identity_id(f"in-{namespace}")
        world.add(identity(namespace=namespace, resource_id=resource_id), binding(namespace=namespace))
    await world.settle_with(pod())
    assert len(world.objects) == 2
    assert world.attached(VM) == {"in-one", "in-two"}


async def test_a_name_over_the_limit_is_truncated_and_made_unique(world: MicWorld) -> None:
    world.add(identity(), binding())
    for end in "xy":
        world.add(pod("p" * 250 + end))
    await world.settle()
    assert len(world.objects) == 2
    assert all(len(name) == NAME_MAX for _, name in world.objects)


async def test_a_name_of_exactly_the_limit_is_not_changed(world: MicWorld) -> None:
    key = AssignmentKey("default", "p" * (NAME_MAX - len("-default-demo")), "default", "demo")
    assert len(plain_name(key)) == NAME_MAX
    await world.settle_with(identity(), binding(), pod(key.pod))
    assert list(world.objects) == [("default", plain_name(key))]


async def test_a_pod_that_returns_while_its_old_object_is_terminating_gets_another_name_immediately(
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
