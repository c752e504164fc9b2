"""MIC's view: the hosts that an event marks, its state after the first lists, and the parts of watched objects that MIC
keeps: every field that decides, and one copy of equal values.
"""

import gc
import itertools
import random
from typing import Any

import msgspec
import pytest

from mic.cluster.kept_parts import ObjectReducer
from mic.cluster.view import ClusterView
from mic.decisions.assignments import ExistingAssignment
from podidentity.kube.decoding import decode_object
from podidentity.object_limits import reduced
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    FINALIZER,
    NODENAME_LABEL,
    NODES,
    SCHEDULED_PODS,
    AzureAssignedIdentity,
    AzureIdentity,
    NodeSpec,
    OwnerReference,
    Pod,
    PodMarks,
    PodMeta,
    PodSpec,
    PodStatus,
)
from tests.support.filled_view import FilledView
from tests.support.mic.world import MicWorld
from tests.support.objects import (
    ClusterObject,
    assigned,
    binding,
    identity,
    identity_id,
    node,
    pod,
    set_id,
    set_node,
    vm_id,
)


def in_sync() -> tuple[FilledView, AzureAssignedIdentity]:
    """A pod with its object, and another node."""
    filled, stored = FilledView(), assigned(pod(), identity(), binding())
    filled.add(node("n0"), node("n1"), identity(), binding(), pod())
    filled.view.assigned.upserted(None, stored)
    filled.dirty.clear()
    return filled, stored


def test_an_event_marks_only_its_own_host_as_dirty() -> None:
    filled, _ = in_sync()
    filled.add(pod("idle", label="unbound"))
    assert filled.dirty == []
    filled.add(pod("other", node="n1"))
    assert set(filled.dirty) == {vm_id("n1").lower()}


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
    resources: list[ClusterObject] = [set_node("s0", 0), identity(), binding(), pod(node="s0")]
    world.add(*resources)
    await world.settle(set_id())
    world.remove(resources[3])
    await world.settle(set_id())
    world.remove(*resources[:3])
    view = world.view
    assert list(view.host_states()) == []
    indexes = (view, view._hosts, view._objects, view._pods, view._bindings, view._bindings._selectors)
    nonempty = {name for index in indexes for name, value in vars(index).items() if hasattr(value, "__len__") and value}
    assert nonempty == {"_released"}, "the uid waits until the watch reports the deletion"


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


NODE_NAMES = ("n0", "s0", "s1")
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
        [*(pod(name, node=where, label=label) for where in NODE_NAMES for label in LABELS), pod(name, phase="Failed")]
        for name in ("a", "b", "c")
    ]
    return [*hosts, *identities, *bindings, *pods]


def stored() -> list[list[AzureAssignedIdentity]]:
    """Return the versions of the objects that MIC writes for these pods: created, assigned, and revoked."""
    versions: dict[Any, list[AzureAssignedIdentity]] = {}
    for label in LABELS:
        for name, where in itertools.product("abc", NODE_NAMES):
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


Event = tuple[Any, Any]
"""An object before and after it; None after a deletion."""


def events(draw: random.Random, number: int) -> list[Event]:
    present: dict[Any, Any] = {}
    changes_: list[Event] = []
    pool: list[list[Any]] = [*things(), *ASSIGNED]
    for _ in range(number):
        versions = draw.choice(pool)
        place = type(versions[0]).__name__, versions[0].key
        old = present.get(place)
        new = None if old is not None and draw.random() < 0.3 else draw.choice(versions)
        present[place] = new
        changes_.append((old, new))
    return changes_


def deliver(event: Event, *views: ClusterView) -> None:
    old, new = event
    for view in views:
        if new is None:
            changes(view, old).deleted(old)
        else:
            changes(view, new).upserted(old, new)


def changes(view: ClusterView, resource: object) -> Any:
    kind = type(resource).__name__
    return {
        "Pod": view.pods,
        "Node": view.nodes,
        "AzureIdentity": view.identities,
        "AzureIdentityBinding": view.bindings,
        "AzureAssignedIdentity": view.assigned,
    }[kind]


def content(view: ClusterView) -> dict[str, Any]:
    state: dict[str, Any] = {"state": view.state(), "waiting": set(view.waiting)}
    for host_state in view.host_states():
        state[host_state.key] = {
            "host": host_state.host and host_state.host.key,
            "nodes": set(host_state.nodes),
            "out of sync": set(host_state.out_of_sync),
            "terminating": set(host_state.terminating),
            "pending detaches": host_state.pending_detaches,
            "usages": {
                key: (usage.needed, usage.owned, usage.foreign, usage.undecided, usage.terminating, set(usage.active))
                for key, usage in host_state.usages.items()
            },
        }
    return state


@pytest.mark.parametrize("seed", range(60))
def test_the_state_after_the_load_is_that_of_single_events(seed: int) -> None:
    draw = random.Random(seed)
    dirty: list[str] = []
    plain, loading = ClusterView(), ClusterView(loading=True, on_dirty=dirty.append)
    for event in events(draw, draw.randint(1, 120)):
        deliver(event, plain, loading)
    assert dirty == [], "work was reported during the load"
    for _ in loading.loaded():
        pass
    assert content(loading) == content(plain)
    assert set(dirty) == {host_state.key for host_state in plain.host_states() if host_state.has_work}


@pytest.mark.parametrize("seed", range(30))
def test_events_during_and_after_the_end_of_the_load_count(seed: int) -> None:
    draw = random.Random(1000 + seed)
    plain, loading = ClusterView(), ClusterView(loading=True)
    order = events(draw, 100)
    for event in order[:60]:
        deliver(event, plain, loading)
    rest = iter(order[60:])
    for _ in loading.loaded():
        for event in (event for event, _ in zip(rest, range(3), strict=False)):
            deliver(event, plain, loading)
    for event in rest:
        deliver(event, plain, loading)
    assert content(loading) == content(plain)


OWNERS = (
    None,
    [OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="web", controller=True)],
    [OwnerReference(api_version="v1", kind="Node", name="n0")],
)
POD_LABELS: tuple[dict[str, str] | None, ...] = (
    None,
    {},
    {"app": "web"},
    {BINDING_LABEL: "demo", "app": "web"},
    {BINDING_LABEL: ""},
)


def an_assigned_identity(number: int = 0, *, version: str = "7", resource_id: str = "") -> AzureAssignedIdentity:
    named = identity(resource_id=resource_id or identity_id("demo"))
    copied = msgspec.structs.replace(named, metadata=msgspec.structs.replace(named.metadata, resource_version=version))
    made = assigned(pod(f"web-{number}"), copied, binding())
    return decode_object(ASSIGNED_IDENTITIES, msgspec.json.encode(made))


def test_a_pod_keeps_what_decides_about_its_assignments_and_nothing_else() -> None:
    phases, marks = ("", "Running", "Succeeded", "Failed"), (None, PodMarks(), PodMarks(mirror="hash"))
    deletions = (None, "2026-01-01T00:00:00Z")
    for phase, mark, labels, owners, deletion in itertools.product(phases, marks, POD_LABELS, OWNERS, deletions):
        meta = PodMeta(name="web", namespace="default", uid="u", resource_version="7", labels=labels, marks=mark)
        meta = msgspec.structs.replace(meta, deletion_timestamp=deletion, owner_references=owners)
        spec, status = PodSpec(node_name="n0", service_account_name="sa"), PodStatus(phase=phase, pod_ip="10.0.0.1")
        pod = Pod(metadata=meta, spec=spec, status=status)
        copy = ObjectReducer().pod(decode_object(SCHEDULED_PODS, msgspec.json.encode(pod)))
        for attribute in ("key", "finished", "mirror", "binding_label"):
            assert getattr(copy, attribute) == getattr(pod, attribute), (attribute, pod)
        for field in ("uid", "resource_version", "deletion_timestamp"):
            assert getattr(copy.metadata, field) == getattr(pod.metadata, field)
        assert msgspec.to_builtins(copy.spec) == {"nodeName": "n0"}
        assert set(copy.metadata.labels or {}) <= {BINDING_LABEL}
        assert copy.mirror or not copy.metadata.owner_references


def test_a_node_keeps_its_names_its_version_and_its_provider_id() -> None:
    document = {
        "metadata": {"name": "n0", "uid": "u", "resourceVersion": "1", "labels": {"zone": "1"}},
        "spec": {"providerID": "azure:///vm"},
    }
    copy = ObjectReducer().node(decode_object(NODES, msgspec.json.encode(document)))
    assert copy.metadata.labels is None
    assert (copy.key, copy.metadata.uid, copy.metadata.resource_version) == (("", "n0"), "u", "1")
    assert copy.spec == NodeSpec(provider_id="azure:///vm")


def test_an_assigned_identity_is_kept_with_all_that_is_written_back() -> None:
    kept_parts = ObjectReducer()
    for number in range(3):
        resource = an_assigned_identity(number)
        assert kept_parts.assigned(resource) == reduced(resource)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("metadata", {"labels": {NODENAME_LABEL: "n0", "team": "a"}}),
        ("metadata", {"finalizers": [FINALIZER, "other"]}),
        ("metadata", {"finalizers": None}),
        ("metadata", {"annotations": None}),
        ("metadata", {"owner_references": [OwnerReference(kind="Node")]}),
        ("metadata", {"deletion_timestamp": "2026-01-01T00:00:00Z"}),
        ("status", {"available_replicas": 2}),
    ],
)
def test_what_other_clients_wrote_is_kept(part: str, other: dict[str, object]) -> None:
    resource = an_assigned_identity()
    written = msgspec.structs.replace(getattr(resource, part), **other)
    changed = msgspec.structs.replace(resource, **{part: written})
    assert ObjectReducer().assigned(changed) == reduced(changed) != resource


def test_equal_parts_of_different_objects_are_one_object() -> None:
    kept_parts = ObjectReducer()
    first, second = (kept_parts.assigned(an_assigned_identity(number)) for number in range(2))
    assert first.spec.azure_identity_ref is second.spec.azure_identity_ref
    assert first.spec.azure_binding_ref is second.spec.azure_binding_ref
    assert first.spec.nodename is second.spec.nodename
    assert first.metadata.labels is second.metadata.labels
    assert first.metadata.finalizers is second.metadata.finalizers
    assert first.status is second.status
    pods = [
        kept_parts.pod(Pod(metadata=PodMeta(name=name, labels={BINDING_LABEL: "demo"}), spec=PodSpec(node_name="n0")))
        for name in ("a", "b")
    ]
    assert pods[0].spec is pods[1].spec
    assert pods[0].metadata.labels is pods[1].metadata.labels


@pytest.mark.parametrize("other", [{"version": "8"}, {"resource_id": "/other"}])
def test_an_embedded_copy_that_differs_is_not_shared(other: dict[str, str]) -> None:
    kept_parts = ObjectReducer()
    first = kept_parts.assigned(an_assigned_identity(0))
    second = kept_parts.assigned(an_assigned_identity(1, **other))
    assert first.spec.azure_identity_ref != second.spec.azure_identity_ref
    assert second == reduced(an_assigned_identity(1, **other))


def test_embedded_copies_are_forgotten_with_the_last_object() -> None:
    kept_parts = ObjectReducer()
    copy = kept_parts.assigned(an_assigned_identity())
    assert len(kept_parts._identities) == 1
    del copy
    gc.collect()
    assert len(kept_parts._identities) == len(kept_parts._bindings) == 0
