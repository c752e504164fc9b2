"""Desired assignments: which pod needs which identity, and the content of the AzureAssignedIdentity.

Excluded: the changes on Azure.
"""

import msgspec
import pytest

from mic.decisions import documents
from mic.decisions.assignments import DesiredAssignment
from podidentity.resources import AzureAssignedIdentity
from tests.mic.cluster import Cluster, Thing, binding, identity, identity_id, node, pod, vm_id


def assigned_to(cluster: Cluster) -> list[tuple[str, str]]:
    """Namespace and name of each object after all is done."""
    cluster.host(vm_id("n0"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    return sorted(cluster.objects)


def test_a_bound_pod_gets_one_object_named_after_pod_namespace_and_identity() -> None:
    cluster = Cluster()
    cluster.add(node(), pod(namespace="shop"), identity(), binding())
    assert assigned_to(cluster) == [("default", "web-shop-demo")]


def test_the_object_contains_the_fields_that_the_go_implementation_reads() -> None:
    cluster = Cluster()
    cluster.add(node(), pod(), identity(), binding())
    cluster.host(vm_id("n0"))
    cluster.reconcile(vm_id("n0"))
    document = msgspec.to_builtins(cluster.objects["default", "web-default-demo"])
    assert document["spec"]["pod"] == "web"
    assert document["spec"]["podNamespace"] == "default"
    assert document["spec"]["nodename"] == "n0"
    assert document["spec"]["azureIdentityRef"]["spec"]["resourceID"] == identity_id("demo")
    assert document["spec"]["azureBindingRef"]["spec"] == {"azureIdentity": "demo", "selector": "demo"}
    assert document["metadata"]["labels"] == {"nodename": "n0"}
    assert document["metadata"]["finalizers"] == ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"]
    assert document["metadata"]["annotations"] == {
        "aadpodidentity.k8s.io/pod-uid": "uid-default-web",
        "aadpodidentity.k8s.io/attached-by": "mic",
    }


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
def test_a_pod_that_is_not_running_or_unbound_needs_no_assignment(idle: Thing) -> None:
    cluster = Cluster()
    cluster.add(node(), idle, identity(), binding())
    assert assigned_to(cluster) == []


@pytest.mark.parametrize("order", range(4))
def test_the_arrival_order_does_not_matter(order: int) -> None:
    things: list[Thing] = [node(), pod(), identity(), binding()]
    cluster = Cluster()
    cluster.add(*things[order:], *things[:order])
    assert assigned_to(cluster) == [("default", "web-default-demo")]


def test_a_finished_pods_assignment_is_revoked() -> None:
    cluster = Cluster()
    cluster.add(node(), pod(), identity(), binding())
    assert assigned_to(cluster)
    cluster.add(pod(phase="Succeeded"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert not cluster.objects
    assert cluster.on(vm_id("n0")) == set()


def test_a_binding_reaches_pods_of_other_namespaces_by_default() -> None:
    cluster = Cluster()
    cluster.add(node(), pod(namespace="shop"), identity(namespace="ids"), binding(namespace="ids"))
    assert assigned_to(cluster) == [("default", "web-shop-demo")]


def test_a_binding_never_reaches_an_identity_of_another_namespace() -> None:
    cluster = Cluster()
    cluster.add(node(), pod(), identity(namespace="ids"), binding(namespace="default"))
    assert assigned_to(cluster) == []


@pytest.mark.parametrize("by", ["flag", "annotation"])
def test_namespaced_mode_keeps_identity_binding_and_pod_in_one_namespace(by: str) -> None:
    cluster = Cluster(force_namespaced=by == "flag")
    for namespace in ("shop", "other"):
        cluster.add(pod(namespace=namespace))
    cluster.add(node(), identity(namespace="shop", namespaced=by == "annotation"), binding(namespace="shop"))
    assert assigned_to(cluster) == [("shop", "web-shop-demo")]


@pytest.mark.parametrize(
    "resource_id",
    ["", "demo", "/subscriptions/s/resourcegroups/rg/providers/Microsoft.Compute/virtualMachines/x"],
    ids=["empty", "name-only", "a-vm"],
)
def test_an_identity_with_a_malformed_resource_id_is_ignored(resource_id: str) -> None:
    cluster = Cluster()
    cluster.add(node(), pod(), identity(resource_id=resource_id), binding())
    assert assigned_to(cluster) == []


@pytest.mark.parametrize("type_", [1, 2])
def test_a_service_principal_is_assigned_without_an_azure_call(type_: int) -> None:
    cluster = Cluster()
    cluster.add(node(), pod(), identity(type_=type_, resource_id=""), binding())
    assert assigned_to(cluster) == [("default", "web-default-demo")]
    assert cluster.statuses() == {"web-default-demo": "Assigned"}
    assert cluster.changes == []


def test_a_service_principal_works_on_a_node_outside_azure_and_a_managed_identity_does_not() -> None:
    cluster = Cluster()
    cluster.add(node(provider_id="kind://docker/kind/n0"), pod(), pod("managed", label="msi"))
    cluster.add(identity(type_=1), binding(), identity("msi"), binding("msi", identity="msi", selector="msi"))
    cluster.reconcile_until_in_sync("node:n0")
    assert cluster.statuses() == {"web-default-demo": "Assigned"}


def test_two_bindings_to_one_identity_make_one_object_that_keeps_its_binding() -> None:
    cluster = Cluster()
    cluster.add(node(), pod(), identity(), binding("later"))
    assert assigned_to(cluster) == [("default", "web-default-demo")]
    cluster.add(binding("earlier"))
    assert cluster.reconcile(vm_id("n0")) == []
    cluster.remove(binding("later"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.objects["default", "web-default-demo"].spec.azure_binding_ref.metadata.name == "earlier"
    assert len(cluster.changes) == 1
