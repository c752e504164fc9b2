"""Objects that MIC updates and does not replace when the pod, node, binding or identity of an assignment changes."""

from typing import Any

import msgspec

from tests.mic.cluster import Cluster, binding, identity, identity_id, node, pod, set_id, set_node, vm_id

OBJECT = ("default", "web-default-demo")


def one_pod() -> Cluster:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.host(vm_id("n1"))
    cluster.add(node("n0"), node("n1"), identity(), binding(), pod(uid="first"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    return cluster


def test_no_write_without_a_relevant_change() -> None:
    cluster = one_pod()
    writes = cluster.writes
    cluster.dirty.clear()
    cluster.add(node("n0"), identity(), binding(), pod(uid="first"))
    assert cluster.reconcile(vm_id("n0")) == []
    assert (cluster.writes, cluster.dirty) == (writes, [])


def test_the_controllers_own_writes_cause_no_action() -> None:
    cluster = one_pod()
    cluster.dirty.clear()
    cluster.view.assigned.upserted(None, cluster.objects[OBJECT])
    assert cluster.dirty == []


def test_a_pod_recreated_on_its_node_stays_assigned() -> None:
    cluster = one_pod()
    cluster.add(pod(uid="second"))
    assert cluster.reconcile(vm_id("n0"), look=False) == ["update"]
    written = cluster.objects[OBJECT]
    assert written.metadata.annotation("aadpodidentity.k8s.io/pod-uid") == "second"
    assert written.status.status == "Assigned"
    assert len(cluster.changes) == 1


def test_a_new_client_id_is_copied_while_assigned_if_azure_does_not_contradict() -> None:
    cluster = one_pod()
    cluster.add(identity(client_id="other"))
    cluster.host(vm_id("n0"), "demo", client_id="OTHER")
    assert cluster.reconcile(vm_id("n0")) == ["update"]
    assert cluster.objects[OBJECT].spec.azure_identity_ref.spec.client_id == "other"
    assert cluster.statuses() == {OBJECT[1]: "Assigned"}


def test_a_pod_that_moves_keeps_its_object_and_the_old_vm_is_cleaned() -> None:
    cluster = one_pod()
    cluster.add(pod(node="n1", uid="second"))
    cluster.reconcile_until_in_sync(vm_id("n1"))
    assert cluster.objects[OBJECT].metadata.label("nodename") == "n1"
    assert cluster.on(vm_id("n1")) == {"demo"}
    assert cluster.on(vm_id("n0")) == {"demo"}, "the old VM is another worker's"
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()
    assert cluster.objects[OBJECT].metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""


def test_a_moved_pods_old_vm_keeps_the_identities_of_other_pods() -> None:
    cluster = one_pod()
    cluster.add(pod("stays"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(pod(node="n1", uid="second"))
    cluster.reconcile_until_in_sync(vm_id("n1"), vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.objects[OBJECT].metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""


def test_a_new_resource_id_replaces_the_old_one_in_one_update() -> None:
    cluster = one_pod()
    cluster.add(identity(resource_id=identity_id("newer"), client_id="client-newer"))
    assert cluster.reconcile(vm_id("n0")) == ["update", "change", "confirm", "completedetaches"]
    assert cluster.on(vm_id("n0")) == {"newer"}
    assert (cluster.changes[-1].adds, cluster.changes[-1].removes) == (
        (identity_id("newer"),),
        (identity_id("demo"),),
    )


def test_a_resource_id_that_changes_only_its_spelling_costs_no_azure_call() -> None:
    cluster = one_pod()
    cluster.add(identity(resource_id=identity_id("demo").replace("resourcegroups", "resourceGroups")))
    assert cluster.reconcile(vm_id("n0")) == ["update"]
    assert cluster.statuses() == {OBJECT[1]: "Assigned"}


def test_a_pod_that_returns_before_the_old_vm_was_cleaned_has_no_pending_detach() -> None:
    cluster = one_pod()
    cluster.add(pod(node="n1", uid="second"))
    cluster.reconcile_until_in_sync(vm_id("n1"))
    cluster.add(pod(node="n0", uid="third"))
    cluster.reconcile_until_in_sync(vm_id("n0"), vm_id("n1"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.on(vm_id("n1")) == set()
    assert [sorted(change.removes) for change in cluster.changes if change.removes] == [[identity_id("demo")]]


def test_a_pod_that_moves_within_its_scale_set_costs_no_azure_call() -> None:
    cluster = Cluster()
    cluster.host(set_id())
    cluster.add(set_node("s0", 0), set_node("s1", 1), identity(), binding(), pod(node="s0"))
    cluster.reconcile_until_in_sync(set_id())
    cluster.add(pod(node="s1", uid="second"))
    cluster.reconcile_until_in_sync(set_id())
    assert cluster.objects[OBJECT].metadata.label("nodename") == "s1"
    assert len(cluster.changes) == 1


def test_an_identity_that_becomes_namespaced_moves_its_object_and_stays_attached() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(namespace="shop"), binding(namespace="shop"), pod(namespace="shop"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(identity(namespace="shop", namespaced=True))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert list(cluster.objects) == [("shop", "web-shop-demo")]
    assert len(cluster.changes) == 1


def test_an_object_of_the_go_implementation_is_adopted_without_a_write() -> None:
    cluster = one_pod()
    written = cluster.objects[OBJECT]
    fresh = Cluster()
    fresh.host(vm_id("n0"), "demo")
    fresh.add(node("n0"), identity(), binding(), pod(uid="first"))
    document: dict[str, Any] = {
        "metadata": {
            "name": OBJECT[1],
            "namespace": "default",
            "labels": {"nodename": "n0"},
            "finalizers": written.metadata.finalizers,
        },
        "spec": msgspec.to_builtins(written.spec),
        "status": written.status,
    }
    # The values that Go writes for missing fields.
    document["spec"]["azureIdentityRef"]["spec"] |= {"clientPassword": {}, "auxiliaryTenantIDs": None, "tenantID": ""}
    fresh.write(document)
    assert fresh.reconcile(vm_id("n0")) == []
    fresh.remove(pod())
    fresh.reconcile_until_in_sync(vm_id("n0"))
    assert fresh.on(vm_id("n0")) == set()
    assert fresh.objects == {}


def test_an_object_is_created_at_its_new_name_before_the_old_one_is_revoked() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(namespace="shop"), binding(namespace="shop"), pod(namespace="shop"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(identity(namespace="shop", type_=3))
    assert cluster.reconcile(vm_id("n0")) == ["create"]
    assert {key: each.status.status for key, each in cluster.objects.items()} == {
        ("default", "web-shop-demo"): "Assigned",
        ("shop", "web-shop-demo"): "Assigned",
    }
    assert cluster.on(vm_id("n0")) == {"demo"}
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert list(cluster.objects) == [("shop", "web-shop-demo")]
    assert cluster.on(vm_id("n0")) == set()
