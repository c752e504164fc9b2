"""The view: the hosts that an event marks."""

import msgspec

from mic.cluster.view import ClusterView
from mic.decisions.assignments import ExistingAssignment
from podidentity.resources import AzureAssignedIdentity, AzureIdentity
from tests.mic.cluster import Cluster, Thing, binding, identity, node, pod, set_id, set_node, vm_id


def assigned() -> tuple[Cluster, AzureAssignedIdentity]:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), node("n1"), identity(), binding(), pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.dirty.clear()
    return cluster, cluster.objects["default", "web-default-demo"]


def test_an_event_marks_only_its_own_host_as_dirty() -> None:
    cluster, _ = assigned()
    cluster.add(pod("other", node="n1"))
    assert set(cluster.dirty) == {vm_id("n1").lower()}


def test_a_nodes_heartbeat_marks_no_host() -> None:
    cluster, _ = assigned()
    cluster.add(node("n0"), node("n1"))
    assert cluster.dirty == []


def test_an_unbound_pod_marks_no_host() -> None:
    cluster, _ = assigned()
    cluster.add(pod("idle", label="unbound"))
    assert cluster.dirty == []


def test_a_late_watch_event_does_not_undo_a_write() -> None:
    cluster, stored = assigned()
    older = msgspec.structs.replace(
        stored,
        metadata=msgspec.structs.replace(stored.metadata, resource_version="1"),
        status=msgspec.structs.replace(stored.status, status="Created"),
    )
    cluster.view.assigned.upserted(None, older)
    existing = cluster.view.existing(stored.key)
    assert existing is not None
    assert existing.object == stored
    assert cluster.dirty == []


def test_a_deleted_object_does_not_return_with_an_outdated_event() -> None:
    cluster, stored = assigned()
    cluster.view.gone(ExistingAssignment(stored))
    cluster.view.assigned.upserted(stored, stored)
    assert cluster.view.existing(stored.key) is None
    cluster.view.assigned.deleted(stored)
    fresh = msgspec.structs.replace(stored, metadata=msgspec.structs.replace(stored.metadata, uid="another"))
    cluster.view.assigned.upserted(None, fresh)
    assert cluster.view.existing(stored.key) is not None


def test_a_revocation_counts_until_the_watch_reports_it() -> None:
    cluster, stored = assigned()
    cluster.remove(pod())
    cluster.view.revoked(ExistingAssignment(stored))
    cluster.view.assigned.upserted(stored, stored)
    existing = cluster.view.existing(stored.key)
    assert existing is not None
    assert existing.terminating


def test_a_node_that_appears_after_its_pods_adds_them() -> None:
    cluster = Cluster()
    cluster.add(identity(), binding(), pod())
    assert cluster.dirty == []
    cluster.add(node("n0"))
    assert cluster.dirty == [vm_id("n0").lower()]


def test_a_node_that_moves_to_another_host_takes_its_pods_along() -> None:
    cluster, _ = assigned()
    cluster.host(vm_id("new"))
    cluster.add(node("n0", f"azure://{vm_id('new')}"))
    cluster.reconcile_until_in_sync(vm_id("new"))
    assert cluster.on(vm_id("new")) == {"demo"}


def test_nothing_is_kept_of_deleted_objects() -> None:
    cluster = Cluster()
    cluster.host(set_id())
    things: list[Thing] = [set_node("s0", 0), identity(), binding(), pod(node="s0")]
    cluster.add(*things)
    cluster.reconcile_until_in_sync(set_id())
    cluster.remove(things[3])
    cluster.reconcile_until_in_sync(set_id())
    cluster.remove(*things[:3])
    view = cluster.view
    assert list(view.host_states()) == []
    indexes = (view, view._hosts, view._objects, view._pods, view._bindings, view._bindings._selectors)
    kept = {name for index in indexes for name, value in vars(index).items() if hasattr(value, "__len__") and value}
    assert kept == {"_released"}, "the uid waits until the watch reports the deletion"


def test_an_identity_counts_as_changed_if_its_spec_or_uid_differs_and_not_otherwise() -> None:
    reported: list[AzureIdentity] = []
    view = ClusterView(on_identity=reported.append)
    first = identity()
    view.identities.upserted(None, first)
    touched = msgspec.structs.replace(first.metadata, resource_version="2", annotations={"touched": "again"})
    view.identities.upserted(first, msgspec.structs.replace(first, metadata=touched))
    assert reported == [first]
    changed, recreated = identity(client_id="other"), identity(client_id="other", uid="second")
    view.identities.upserted(first, changed)
    view.identities.upserted(changed, recreated)
    assert reported == [first, changed, recreated]
