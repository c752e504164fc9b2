"""MIC's view: the hosts that an event marks, and its state after the first lists."""

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from mic.cluster.view import ClusterView
from mic.decisions.assignments import ExistingAssignment
from podidentity.resources import AzureAssignedIdentity, AzureIdentity
from tests.support.filled_view import FilledView
from tests.support.mic.world import MicWorld
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


NODES = ("n0", "s0", "s1")
LABELS = ("one", "two")


def things() -> list[list[ClusterObject]]:
    """Return the versions of each object."""
    hosts: list[list[ClusterObject]] = [
        [node("n0"), node("n0", f"azure://{vm_id('other')}")],
        [set_node("s0", 0)],
        [set_node("s1", 1), set_node("s1", 1, pool="other")],
    ]
    identities: list[list[ClusterObject]] = [[identity(name), identity(name, resource_id="invalid")] for name in LABELS]
    bindings: list[list[ClusterObject]] = [
        [binding(name, identity=name, selector=name), binding(name, identity="one", selector=name)] for name in LABELS
    ]
    pods: list[list[ClusterObject]] = [
        [*(pod(name, node=where, label=label) for where in NODES for label in LABELS), pod(name, phase="Failed")]
        for name in ("a", "b", "c")
    ]
    return [*hosts, *identities, *bindings, *pods]


def stored() -> list[list[AzureAssignedIdentity]]:
    """Return the versions of the objects that MIC writes for these pods: created, assigned, and revoked."""
    versions: dict[Any, list[AzureAssignedIdentity]] = {}
    for label in LABELS:
        for name, where in itertools.product("abc", NODES):
            of = (pod(name, node=where, label=label), identity(label), binding(label, identity=label, selector=label))
            for number, status in enumerate(("Created", "Assigned", "Assigned"), start=1):
                made = assigned(*of, status=status)
                meta = msgspec.structs.replace(
                    made.metadata,
                    uid=f"{made.metadata.uid}-{where}",
                    resource_version=str(number),
                    deletion_timestamp="2026-01-01T00:00:00Z" if number == 3 else None,
                )
                versions.setdefault(made.key, []).append(msgspec.structs.replace(made, metadata=meta))
    return [*versions.values()]


ASSIGNED = stored()


def events(draw: random.Random, number: int) -> list[Callable[[ClusterView], None]]:
    known: dict[Any, Any] = {}
    found: list[Callable[[ClusterView], None]] = []
    pool: list[list[Any]] = [*things(), *ASSIGNED]
    for _ in range(number):
        versions = draw.choice(pool)
        place = type(versions[0]).__name__, versions[0].key
        old = known.get(place)
        if old is not None and draw.random() < 0.3:
            del known[place]
            found.append(partial(_delete, old))
        else:
            new = known[place] = draw.choice(versions)
            found.append(partial(_upsert, old, new))
    return found


def _delete(old: object, view: ClusterView) -> None:
    changes(view, old).deleted(old)


def _upsert(old: object, new: object, view: ClusterView) -> None:
    changes(view, new).upserted(old, new)


def changes(view: ClusterView, thing: object) -> Any:
    kind = type(thing).__name__
    return {
        "Pod": view.pods,
        "Node": view.nodes,
        "AzureIdentity": view.identities,
        "AzureIdentityBinding": view.bindings,
        "AzureAssignedIdentity": view.assigned,
    }[kind]


def content(view: ClusterView) -> dict[str, Any]:
    found: dict[str, Any] = {"state": view.state(), "waiting": set(view.waiting)}
    for each in view.host_states():
        found[each.key] = {
            "host": each.host and each.host.key,
            "nodes": set(each.nodes),
            "out of sync": set(each.out_of_sync),
            "terminating": set(each.terminating),
            "pending detaches": each.pending_detaches,
            "usages": {
                key: (usage.needed, usage.owned, usage.foreign, usage.undecided, usage.terminating, set(usage.active))
                for key, usage in each.usages.items()
            },
        }
    return found


@pytest.mark.parametrize("seed", range(60))
def test_the_state_after_the_load_is_that_of_single_events(seed: int) -> None:
    draw = random.Random(seed)
    dirty: list[str] = []
    plain, loading = ClusterView(), ClusterView(loading=True, on_dirty=dirty.append)
    for event in events(draw, draw.randint(1, 120)):
        event(plain)
        event(loading)
    assert dirty == [], "work was reported during the load"
    for _ in loading.loaded():
        pass
    assert content(loading) == content(plain)
    assert set(dirty) == {each.key for each in plain.host_states() if each.has_work}


@pytest.mark.parametrize("seed", range(30))
def test_events_during_and_after_the_end_of_the_load_count(seed: int) -> None:
    draw = random.Random(1000 + seed)
    plain, loading = ClusterView(), ClusterView(loading=True)
    order = events(draw, 100)
    for event in order[:60]:
        event(plain)
        event(loading)
    rest = iter(order[60:])
    for _ in loading.loaded():
        for event in (event for event, _ in zip(rest, range(3), strict=False)):
            event(plain)
            event(loading)
    for event in rest:
        event(plain)
        event(loading)
    assert content(loading) == content(plain)
