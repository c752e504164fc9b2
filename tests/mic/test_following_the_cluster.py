"""The view: the hosts that an event marks."""

import msgspec

from mic.cluster.view import ClusterView
from mic.decisions.assignments import ExistingAssignment
from podidentity.resources import AzureAssignedIdentity, AzureIdentity
from tests.support.filled_view import FilledView
from tests.support.mic import MicWorld
from tests.support.objects import ClusterObject, assigned, binding, identity, node, pod, set_id, set_node, vm_id


def in_sync() -> tuple[FilledView, AzureAssignedIdentity]:
    """A pod with its object, and another node."""
    filled, stored = FilledView(), assigned(pod(), identity(), binding())
    filled.add(node("n0"), node("n1"), identity(), binding(), pod())
    filled.view.assigned.upserted(None, stored)
    filled.dirty.clear()
    return filled, stored


def test_an_event_marks_only_its_own_host_as_dirty() -> None:
    filled, _ = in_sync()
    filled.add(pod("other", node="n1"))
    assert set(filled.dirty) == {vm_id("n1").lower()}


def test_a_nodes_heartbeat_marks_no_host() -> None:
    filled, _ = in_sync()
    filled.add(node("n0"), node("n1"))
    assert filled.dirty == []


def test_an_unbound_pod_marks_no_host() -> None:
    filled, _ = in_sync()
    filled.add(pod("idle", label="unbound"))
    assert filled.dirty == []


def test_a_late_watch_event_does_not_undo_a_write() -> None:
    filled, stored = in_sync()
    older = msgspec.structs.replace(
        stored,
        metadata=msgspec.structs.replace(stored.metadata, resource_version="1"),
        status=msgspec.structs.replace(stored.status, status="Created"),
    )
    filled.view.assigned.upserted(None, older)
    existing = filled.view.existing(stored.key)
    assert existing is not None
    assert existing.object == stored
    assert filled.dirty == []


def test_a_deleted_object_does_not_return_with_an_outdated_event() -> None:
    filled, stored = in_sync()
    filled.view.gone(ExistingAssignment(stored))
    filled.view.assigned.upserted(stored, stored)
    assert filled.view.existing(stored.key) is None
    filled.view.assigned.deleted(stored)
    fresh = msgspec.structs.replace(stored, metadata=msgspec.structs.replace(stored.metadata, uid="another"))
    filled.view.assigned.upserted(None, fresh)
    assert filled.view.existing(stored.key) is not None


def test_a_revocation_counts_until_the_watch_reports_it() -> None:
    filled, stored = in_sync()
    filled.remove(pod())
    filled.view.revoked(ExistingAssignment(stored))
    filled.view.assigned.upserted(stored, stored)
    existing = filled.view.existing(stored.key)
    assert existing is not None
    assert existing.terminating


def test_a_node_that_appears_after_its_pods_adds_them() -> None:
    filled = FilledView()
    filled.add(identity(), binding(), pod())
    assert filled.dirty == []
    filled.add(node("n0"))
    assert filled.dirty == [vm_id("n0").lower()]


async def test_nothing_is_kept_of_deleted_objects(world: MicWorld) -> None:
    world.remove(node())
    world.host(set_id())
    things: list[ClusterObject] = [set_node("s0", 0), identity(), binding(), pod(node="s0")]
    world.add(*things)
    await world.settle(set_id())
    world.remove(things[3])
    await world.settle(set_id())
    world.remove(*things[:3])
    view = world.view
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
