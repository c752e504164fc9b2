"""Desired assignments: which pod needs which identity, and the content of the AzureAssignedIdentity.

Excluded: the changes on Azure.
"""

import msgspec
import pytest

from mic.decisions import documents
from mic.decisions.assignments import DesiredAssignment
from podidentity.resources import AzureAssignedIdentity
from tests.support.mic import VM, MicWorld
from tests.support.objects import ClusterObject, binding, identity, node, pod


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
