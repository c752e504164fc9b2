"""Objects that MIC updates and does not replace when the pod, node, binding or identity of an assignment changes."""

from typing import Any

import msgspec
import pytest

from tests.support.mic import VM, MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod, set_id, set_node, vm_id

OBJECT = ("default", "web-default-demo")


async def one_pod(world: MicWorld) -> None:
    world.host(vm_id("n1"))
    world.add(node("n1"), identity(), binding(), pod(uid="first"))
    await world.settle()


async def test_no_write_without_a_relevant_change(world: MicWorld) -> None:
    await one_pod(world)
    writes = world.writes
    world.dirty.clear()
    world.add(identity(), binding(), pod(uid="first"))
    assert await world.steps() == []
    assert (world.writes, world.dirty) == (writes, [])


async def test_the_controllers_own_writes_cause_no_action(world: MicWorld) -> None:
    await one_pod(world)
    world.dirty.clear()
    world.view.assigned.upserted(None, world.objects[OBJECT])
    assert world.dirty == []


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
    world.add(pod("stays"))
    await world.settle()
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
    world.add(identity(namespace="shop"), binding(namespace="shop"), pod(namespace="shop"))
    await world.settle()
    world.add(identity(namespace="shop", namespaced=True))
    await world.settle()
    assert list(world.objects) == [("shop", "web-shop-demo")]
    assert len(world.changes) == 1


async def test_an_object_of_the_go_implementation_is_adopted_without_a_write(world: MicWorld) -> None:
    await one_pod(world)
    written = world.objects[OBJECT]
    document: dict[str, Any] = {
        "metadata": {
            "name": OBJECT[1],
            "namespace": "default",
            "labels": {"nodename": "n0"},
            "finalizers": written.metadata.finalizers,
        },
        "spec": msgspec.to_builtins(written.spec),
        "status": msgspec.to_builtins(written.status),
    }
    # The values that Go writes for missing fields.
    document["spec"]["azureIdentityRef"]["spec"] |= {"clientPassword": {}, "auxiliaryTenantIDs": None, "tenantID": ""}
    async with MicWorld() as fresh:
        fresh.host(VM, "demo")
        fresh.add(identity(), binding(), pod(uid="first"))
        fresh.write(document)
        assert await fresh.steps() == []
        fresh.remove(pod())
        await fresh.settle()
        assert fresh.attached(VM) == set()
        assert fresh.objects == {}


async def test_an_object_is_created_at_its_new_name_before_the_old_one_is_revoked(world: MicWorld) -> None:
    world.add(identity(namespace="shop"), binding(namespace="shop"), pod(namespace="shop"))
    await world.settle()
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
