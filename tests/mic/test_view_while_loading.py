"""A view that the first lists fill ends in the state of a view that the same events fill one by one, in any order."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from mic.cluster.view import ClusterView
from podidentity.resources import AzureAssignedIdentity
from tests.mic.cluster import Cluster, Thing, binding, identity, node, pod, set_id, set_node, vm_id

NODES = ("n0", "s0", "s1")
LABELS = ("one", "two")


def things() -> list[list[Thing]]:
    """Return the versions of each object."""
    hosts: list[list[Thing]] = [
        [node("n0"), node("n0", f"azure://{vm_id('other')}")],
        [set_node("s0", 0)],
        [set_node("s1", 1), set_node("s1", 1, pool="other")],
    ]
    identities: list[list[Thing]] = [[identity(name), identity(name, resource_id="invalid")] for name in LABELS]
    bindings: list[list[Thing]] = [
        [binding(name, identity=name, selector=name), binding(name, identity="one", selector=name)] for name in LABELS
    ]
    pods: list[list[Thing]] = [
        [*(pod(name, node=where, label=label) for where in NODES for label in LABELS), pod(name, phase="Failed")]
        for name in ("a", "b", "c")
    ]
    return [*hosts, *identities, *bindings, *pods]


def assigned() -> list[list[AzureAssignedIdentity]]:
    """Return the versions of the objects that MIC writes for these pods: created, assigned, and revoked."""
    versions: dict[Any, list[AzureAssignedIdentity]] = {}
    for label in LABELS:
        for where in NODES:
            cluster = Cluster()
            cluster.add(node("n0"), set_node("s0", 0), set_node("s1", 1))
            cluster.add(identity(label), binding(label, identity=label, selector=label))
            cluster.add(*(pod(name, node=where, label=label) for name in ("a", "b", "c")))
            for host in (vm_id("n0"), set_id()):
                cluster.host(host)
            for _ in range(3):
                for host in (vm_id("n0"), set_id()):
                    cluster.reconcile(host)
                    for key, stored in cluster.objects.items():
                        versions.setdefault(key, []).append(stored)
            for key in [*cluster.objects]:
                existing = cluster.view.existing(key)
                assert existing is not None
                cluster.delete(existing)
                versions[key].append(cluster.objects[key])
    return [*versions.values()]


ASSIGNED = assigned()


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
