"""The parts of pods and assigned identities that NMI keeps: all that decides, and one copy of equal values.

Excluded: the limits on labels and owners, which `podidentity.object_limits` applies.
"""

import gc
import random
import tracemalloc

import msgspec
from msgspec.structs import replace

from nmi.identity.assigned_identity import project
from nmi.identity.assignments import assigned_order
from nmi.identity.kept_parts import LABELS_CHARS, SHARED_MAX, KeptParts
from nmi.identity.pods import facts, newest_running, own_addresses, owner_of
from nmi.refusal import Reason, Refusal
from podidentity.kube.decoding import decode_object
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    EXCHANGE_ANNOTATION,
    OBJECT_ID_ANNOTATION,
    PODS,
    AzureAssignedIdentity,
    ContainerState,
    ContainerStatus,
    OwnerReference,
    Pod,
    PodCondition,
    PodIP,
    PodMeta,
    PodSpec,
    PodStatus,
    Running,
    SecretReference,
    Terminated,
)
from tests.support.nmi_objects import assigned, assigned_identity
from tests.support.objects import pod

DRAW = random.Random(20261128)
TIMES = (None, "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "not a time")
CONDITIONS = ("PodReadyToStartContainers", "PodHasNetwork", "Ready", "PodScheduled")


def a_state() -> ContainerState:
    return ContainerState(
        running=DRAW.choice([None, Running(started_at=DRAW.choice(TIMES))]),
        terminated=DRAW.choice([None, Terminated(started_at=DRAW.choice(TIMES))]),
    )


def some_containers() -> list[ContainerStatus]:
    return [ContainerStatus(state=a_state(), last_state=a_state()) for _ in range(DRAW.randint(0, 2))]


def any_pod() -> Pod:
    made = pod(
        f"web-{DRAW.randint(0, 9)}",
        namespace=DRAW.choice(["default", "other"]),
        uid=f"uid-{DRAW.randint(0, 9)}",
        resource_version=str(DRAW.randint(1, 99)),
        deleting=DRAW.choice([True, False]),
        label=DRAW.choice(["demo", None]),
        labels=DRAW.choice([None, {"app": "web"}, {BINDING_LABEL: ""}]),
        owner=DRAW.choice([None, OwnerReference(api_version="v1", kind="Node", name="n0")]),
        mirror=DRAW.choice([True, False]),
        service_account=DRAW.choice(["", "sa"]),
        host_network=DRAW.choice([True, False]),
        phase=DRAW.choice(["", "Pending", "Running", "Succeeded", "Failed"]),
        addresses=DRAW.choice([(), ("10.0.0.1",), ("10.0.0.1", "fd00::1")]),
    )
    status = replace(
        made.status,
        pod_ips=DRAW.choice([made.status.pod_ips, [], [PodIP(ip="10.0.0.2")]]),
        container_statuses=some_containers(),
        init_container_statuses=some_containers(),
        ephemeral_container_statuses=some_containers(),
        conditions=[
            PodCondition(type=type_, status=DRAW.choice(["True", "False", "Unknown"]))
            for type_ in DRAW.sample(CONDITIONS, DRAW.randint(0, 4))
        ],
    )
    return replace(made, status=status)


def test_a_pod_keeps_all_that_a_decision_depends_on() -> None:
    kept_parts = KeptParts()
    former = any_pod()
    for _ in range(2000):
        drawn = any_pod()
        reduced = kept_parts.pod(decode_object(PODS, msgspec.json.encode(drawn)))
        for attribute in ("key", "addresses", "terminated", "sandbox_down", "ending", "finished", "mirror", "spec"):
            assert getattr(reduced, attribute) == getattr(drawn, attribute), (attribute, drawn)
        for field in ("name", "namespace", "uid", "resource_version", "deletion_timestamp", "owner_references"):
            assert getattr(reduced.metadata, field) == getattr(drawn.metadata, field)
        assert (reduced.metadata.labels or {}) == (drawn.metadata.labels or {})
        assert facts(reduced) == facts(drawn)
        assert own_addresses(reduced) == own_addresses(drawn)
        assert newest_running(reduced) == newest_running(drawn)
        owner = owner_of([drawn, former])
        assert owner_of([reduced, former]) == (reduced if owner is drawn else owner)
        former = drawn


def test_equal_parts_of_two_pods_are_one_object() -> None:
    kept_parts = KeptParts()
    status = PodStatus(pod_ip="10.0.0.1", pod_ips=[PodIP(ip="10.0.0.1")], conditions=[PodCondition(type="Ready")])
    first, second = (
        kept_parts.pod(
            Pod(metadata=PodMeta(name=name, labels={"app": "web"}), spec=PodSpec(node_name="n"), status=status)
        )
        for name in ("a", "b")
    )
    assert first.metadata.labels is second.metadata.labels
    assert first.spec is second.spec
    assert first.status.pod_ips is second.status.pod_ips
    assert first.status.container_statuses is second.status.init_container_statuses
    assert first.status.conditions == ()


def test_labels_of_a_tenant_take_bounded_memory() -> None:
    kept_parts = KeptParts()
    for number in range(3 * SHARED_MAX):
        labels = {"app": f"web-{number}"}
        assert kept_parts.pod(Pod(metadata=PodMeta(labels=labels))).metadata.labels == labels
    assert len(kept_parts._labels) <= 2 * SHARED_MAX
    before = len(kept_parts._labels)
    long = {"app": "x" * LABELS_CHARS}
    assert kept_parts.pod(Pod(metadata=PodMeta(labels=long))).metadata.labels == long
    assert len(kept_parts._labels) == before


def any_assigned() -> AzureAssignedIdentity:
    made = assigned_identity(
        "demo",
        binding=DRAW.choice(["b", "c"]),
        selector=DRAW.choice(["demo", "Demo"]),
        status=DRAW.choice(["", "Assigned", "Created"]),
        pod_namespace=DRAW.choice(["default", "other"]),
        pod_uid=DRAW.choice([None, "uid"]),
        deleting=DRAW.choice([True, False]),
        namespace=DRAW.choice(["default", "other"]),
        binding_namespace=DRAW.choice(["default", "other"]),
        own_namespace=DRAW.choice(["default", "other"]),
        own_annotations=DRAW.choice([None, {"note": "x"}]),
        nodename=DRAW.choice(["", "n0"]),
        resource_version=DRAW.choice(["7", "8"]),
        annotations=DRAW.choice(
            [
                None,
                {BEHAVIOR_ANNOTATION: "namespaced"},
                {OBJECT_ID_ANNOTATION: "o", "n": ""},
                {EXCHANGE_ANNOTATION: "direct"},
            ]
        ),
        type_=DRAW.choice([0, 1]),
        resource_id=DRAW.choice(["/a", "/b"]),
        client_password=DRAW.choice([None, SecretReference(name="s", namespace="n")]),
        tenant_id=DRAW.choice(["", "t"]),
    )
    uid, version = f"uid-{DRAW.randint(0, 9)}", str(DRAW.randint(1, 99))
    return replace(made, metadata=replace(made.metadata, uid=uid, resource_version=version, finalizers=["f"]))


def test_an_assigned_identity_keeps_all_that_a_decision_depends_on() -> None:
    kept_parts = KeptParts()
    alive = []
    for _ in range(2000):
        drawn = any_assigned()
        reduced = kept_parts.assigned(decode_object(ASSIGNED_IDENTITIES, msgspec.json.encode(drawn)))
        alive.append(reduced)
        assert project(reduced) == project(drawn)
        assert assigned_order(reduced) == assigned_order(drawn)
        for field in ("uid", "resource_version"):
            assert getattr(reduced.metadata, field) == getattr(drawn.metadata, field)
        for field in ("pod", "pod_namespace", "nodename"):
            assert getattr(reduced.spec, field) == getattr(drawn.spec, field)


def test_equal_identities_are_one_object_until_the_last_one_is_gone() -> None:
    kept_parts = KeptParts()
    base = any_assigned()
    first, second = (
        kept_parts.assigned(decode_object(ASSIGNED_IDENTITIES, msgspec.json.encode(base))) for _ in range(2)
    )
    assert first.spec.azure_identity_ref is second.spec.azure_identity_ref
    assert project(first).identity is first.spec.azure_identity_ref
    del first, second
    gc.collect()
    assert len(kept_parts._identities) == 0


def a_document(number: int) -> bytes:
    """Return a running pod with two containers, as the API server sends it, without the fields that are skipped."""
    made = pod(
        f"web-7d4b9c-{number}",
        namespace="shop",
        uid=f"5d1d5cbe-8f51-4c11-9f7e-{number:012d}",
        resource_version=str(100_000 + number),
        labels={"app": "web", "pod-template-hash": "7d4b9c"},
        owner=OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="web", controller=True),
        addresses=(f"10.1.{number // 250}.{number % 250}",),
    )
    conditions = [PodCondition(type=condition, status="True") for condition in CONDITIONS]
    status = replace(made.status, container_statuses=made.status.container_statuses * 2, conditions=conditions)
    return msgspec.json.encode(replace(made, status=status))


def test_a_kept_pod_takes_at_most_1400_bytes() -> None:
    kept_parts = KeptParts()
    documents = [a_document(number) for number in range(500)]
    kept_parts.pod(decode_object(PODS, documents[0]))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pods = [kept_parts.pod(decode_object(PODS, document)) for document in documents]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / len(pods) <= 1400, taken / len(pods)


IDENTITY = assigned()
REFUSAL = Refusal(Reason.NOTHING_ASSIGNED, "no")


def test_the_time_of_an_assigned_identity_is_not_compared() -> None:
    later = replace(IDENTITY, usable_since=5.0)
    assert later == IDENTITY
    assert not later != IDENTITY  # noqa: SIM202  the operator is under test
    assert hash(later) == hash(IDENTITY)


def test_every_other_field_of_an_assigned_identity_is_compared() -> None:
    changes = {"binding": "x", "selector": "x", "status": "x", "deleting": True, "pod_uid": "x", "home": "x"}
    assert {*changes, "identity", "usable_since"} == set(IDENTITY.__struct_fields__)
    for name, value in changes.items():
        assert replace(IDENTITY, **{name: value}) != IDENTITY
    assert (
        replace(IDENTITY, identity=replace(IDENTITY.identity, metadata=replace(IDENTITY.identity.metadata))) == IDENTITY
    )
    renamed = replace(IDENTITY.identity.metadata, name="x")
    assert replace(IDENTITY, identity=replace(IDENTITY.identity, metadata=renamed)) != IDENTITY


def test_the_validity_of_a_refusal_is_not_compared() -> None:
    lasting = replace(REFUSAL, generation=3, unknown_seconds=1.0)
    assert lasting == REFUSAL
    assert not lasting != REFUSAL  # noqa: SIM202  the operator is under test
    assert hash(lasting) == hash(REFUSAL)
    assert replace(REFUSAL, sentence="other") != REFUSAL
