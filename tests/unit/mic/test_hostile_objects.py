"""Limits of what tenants and other clients write into objects, and objects that MIC ignores, such as mirror pods: no
assignments, and reports up to a limit.
"""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from mic.cluster import ignored_objects, mirror_pods
from mic.cluster.ignored_objects import IgnoredObjects
from mic.cluster.mirror_pods import IGNORED, MirrorPods
from mic.decisions.assignments import (
    DETACH_PENDING_ANNOTATION,
    PENDING_DETACHES_MAX,
    PENDING_DETACHES_TEXT_MAX,
    DesiredAssignment,
    ExistingAssignment,
    PendingDetach,
    encode_pending_detaches,
    misconfigured,
    unchanged,
)
from mic.decisions.documents import embedded, new_document
from mic.decisions.policy import Policy
from mic.preview.dry_run import Snapshot
from mic.preview.left_out import left_out
from podidentity import object_limits
from podidentity.kube.events import EventRecorder
from podidentity.kube.object_reports import GROUP_SHARE
from podidentity.object_limits import oversized
from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    BINDINGS,
    IDENTITIES,
    OBJECT_ID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentitySpec,
    Kind,
    Meta,
    Resource,
    ScheduledPod,
    SecretReference,
)
from podidentity.telemetry.token_bucket import GROUPS_MAX
from tests.support.filled_view import FilledView
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod, vm_id
from tests.support.virtual_time import now
from tests.support.work import Work

EMBEDDED_MAX = 100_000
"""Bytes: four of UTF-8 for each character of each field at its limit."""


def dressed(made: AzureIdentity, **annotations: str) -> AzureIdentity:
    """With labels and annotations as their author likes."""
    meta = msgspec.structs.replace(
        made.metadata,
        annotations={**(made.metadata.annotations or {}), **annotations},
        labels={f"label-{number}": "x" * 63 for number in range(60)},
        finalizers=["example.org/mine"],
    )
    return msgspec.structs.replace(made, metadata=meta)


def test_only_the_relevant_metadata_is_copied() -> None:
    wanted = dressed(identity(namespaced=True), **{OBJECT_ID_ANNOTATION: "an-id", "example.org/notes": "x" * 200_000})
    copy = embedded(IDENTITIES, wanted)
    assert copy["metadata"] == {
        "name": "demo",
        "namespace": "default",
        "uid": "uid-default-demo",
        "annotations": {BEHAVIOR_ANNOTATION: "namespaced", OBJECT_ID_ANNOTATION: "an-id"},
    }
    bound = binding()
    noted = msgspec.structs.replace(bound, metadata=msgspec.structs.replace(bound.metadata, labels={"a": "b"}))
    assert embedded(BINDINGS, noted)["metadata"] == {
        "name": "demo-binding",
        "namespace": "default",
        "uid": "uid-default-demo-binding",
    }


def test_the_largest_accepted_object_is_small() -> None:
    """Characters of four bytes in each field that may be as long as its limit."""
    wide = "\N{SMILING FACE WITH SUNGLASSES}"
    spec = AzureIdentitySpec(
        type=1,
        resource_id=wide * object_limits.RESOURCE_ID_MAX,
        client_id=wide * object_limits.CLIENT_ID_MAX,
        tenant_id=wide * object_limits.TENANT_ID_MAX,
        auxiliary_tenant_ids=[wide * object_limits.TENANT_ID_MAX] * object_limits.AUXILIARY_TENANTS_MAX,
        ad_resource_id=wide * object_limits.RESOURCE_ID_MAX,
        ad_endpoint=wide * object_limits.ENDPOINT_MAX,
        client_password=SecretReference("a" * 253, "b" * 253),
    )
    largest = dressed(msgspec.structs.replace(identity(), spec=spec))
    assert misconfigured(largest) == ""
    desired = DesiredAssignment(pod(), binding(), largest, None, namespaced=False)
    assert len(json.dumps(new_document(desired, "name", "Created", ""), ensure_ascii=False).encode()) < EMBEDDED_MAX


@pytest.mark.parametrize(
    "spec",
    [
        AzureIdentitySpec(type=1, tenant_id="t" * 257),
        AzureIdentitySpec(type=1, client_id="c" * 500_000),
        AzureIdentitySpec(type=1, auxiliary_tenant_ids=["t"] * 33),
        AzureIdentitySpec(type=1, ad_endpoint="e" * 2049),
    ],
    ids=["tenant", "client", "tenants", "endpoint"],
)
def test_an_identity_over_a_limit_is_rejected_with_a_reason_and_given_to_no_pod(spec: AzureIdentitySpec) -> None:
    cluster = FilledView()
    large = msgspec.structs.replace(identity(), spec=spec)
    cluster.add(node(), pod(), large, binding())
    assert "and the limit is" in misconfigured(large)
    assert not cluster.view.waiting
    cluster.add(msgspec.structs.replace(large, spec=AzureIdentitySpec(type=1, tenant_id="t" * 256)))
    assert len(cluster.view.waiting) == 1


def test_a_binding_over_a_limit_is_rejected_with_a_reason_and_counts_for_no_pod() -> None:
    ignored: list[tuple[str, str]] = []
    cluster = FilledView(on_ignored=lambda which, reason: ignored.append((which.metadata.name, reason)))
    large = binding(selector="s" * 254)
    cluster.add(node(), pod(label="s" * 254), identity(), large)
    assert not cluster.view.waiting
    assert ignored == [("demo-binding", oversized(large))]
    cluster.add(binding(), pod())
    assert len(cluster.view.waiting) == 1
    cluster.add(large)
    assert not cluster.view.waiting


def test_objects_of_an_earlier_mic_with_complete_copies_are_not_rewritten() -> None:
    """The earlier copies have labels and every annotation; an upgrade must not rewrite thousands of them."""
    wanted = dressed(identity(), **{"example.org/notes": "x" * 1000})
    desired = DesiredAssignment(pod(), binding(), wanted, None, namespaced=False)
    document = new_document(desired, "name", "Assigned", "mic")
    whole: dict[str, object] = {
        "labels": dict(wanted.metadata.labels or {}),
        "annotations": dict(wanted.metadata.annotations or {}),
    }
    document["spec"]["azureIdentityRef"]["metadata"] |= whole
    document["spec"]["azureBindingRef"]["metadata"] |= {"labels": {"team": "a"}, "annotations": {"b": "c"}}
    existing = ExistingAssignment(msgspec.convert(document, AzureAssignedIdentity))
    assert existing.object.spec.azure_identity_ref.metadata.labels
    assert unchanged(desired, existing)


def test_exactly_the_copied_fields_are_compared() -> None:
    bare = DesiredAssignment(pod(), binding(), identity(), None, namespaced=False)
    existing = ExistingAssignment(msgspec.convert(new_document(bare, "name", "Assigned", "mic"), AzureAssignedIdentity))
    assert unchanged(bare, existing)
    assert not unchanged(
        DesiredAssignment(pod(), binding(), identity(namespaced=True), None, namespaced=False), existing
    )
    other: AzureIdentityBinding = msgspec.structs.replace(
        binding(), spec=msgspec.structs.replace(binding().spec, weight=1)
    )
    assert not unchanged(DesiredAssignment(pod(), other, identity(), None, namespaced=False), existing)


ONE = PendingDetach(vm_id(), identity_id("one"))


def pending_detaches(text: str) -> tuple[PendingDetach, ...]:
    return ExistingAssignment(
        AzureAssignedIdentity(metadata=Meta(annotations={DETACH_PENDING_ANNOTATION: text}))
    ).pending_detaches


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "[" * 30_000 + "]" * 30_000,
        '{"a":' * 20_000,
        "[[" + "9" * 60_000 + "]]",
        "1e999",
        '[["\\ud800","' + identity_id("one") + '"]]',
        '"' + "a" * 60_000 + '"',
        "{}",
        "null",
        "nonsense",
        "",
    ],
    ids=lambda text: text[:20],
)
def test_an_invalid_list_of_pending_detaches_is_ignored_at_little_cost(text: str) -> None:
    with Work() as work:
        assert pending_detaches(text) == ()
    assert work.bytecodes < 2_000


@pytest.mark.parametrize(
    "entry",
    [
        ["no host", identity_id("one")],
        [vm_id(), "no identity"],
        [vm_id()],
        [vm_id(), identity_id("one"), "more"],
        [vm_id(), 1],
        [[[[]]]],
        {},
        None,
        ["/" * 3000, identity_id("one")],
    ],
    ids=repr,
)
def test_an_invalid_entry_does_not_hide_a_valid_one(entry: object) -> None:
    assert pending_detaches(json.dumps([entry, list(ONE), entry])) == (ONE,)


def test_the_number_of_entries_and_the_length_are_limited() -> None:
    many = [PendingDetach(vm_id(f"n{number}"), identity_id("one")) for number in range(PENDING_DETACHES_MAX + 10)]
    assert pending_detaches(encode_pending_detaches(many)) == tuple(many[:PENDING_DETACHES_MAX])
    assert pending_detaches(encode_pending_detaches([ONE]) + " " * PENDING_DETACHES_TEXT_MAX) == ()
    entry = encode_pending_detaches([ONE])[1:]
    assert pending_detaches("[" + "0," * (PENDING_DETACHES_MAX - 1) + entry) == (ONE,)
    assert pending_detaches("[" + "0," * PENDING_DETACHES_MAX + entry) == ()


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=30).map(json.dumps))
def test_no_text_causes_an_exception(text: str) -> None:
    assert all(isinstance(pending_detach, PendingDetach) for pending_detach in pending_detaches(text))


class RecordedEvents(EventRecorder):
    """The reports of ignored objects, with a clock of the test."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str]] = []
        self.now = 0.0
        self.counted = 0
        self.ignored = IgnoredObjects(self, self.count, clock=lambda: self.now)

    @override
    def record(self, regarding: Resource, kind: Kind[Any], type: str, reason: str, message: str) -> None:
        assert type == "Warning"
        self.events.append((kind.name, "/".join(regarding.key), reason, message))

    def count(self) -> None:
        self.counted += 1


def test_each_ignored_object_has_an_event_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    recorded = RecordedEvents()
    recorded.ignored.identity(identity("bad"), "spec.type 9 is none")
    recorded.ignored.binding(binding("much"), "there are too many")
    assert recorded.events == [
        ("AzureIdentity", "default/bad", "invalid identity", "spec.type 9 is none"),
        ("AzureIdentityBinding", "default/much", "binding ignored", "there are too many"),
    ]
    assert len(caplog.records) == 2
    assert recorded.counted == 2


def test_a_namespace_with_many_ignored_objects_leaves_events_to_others(caplog: pytest.LogCaptureFixture) -> None:
    recorded = RecordedEvents()
    for number in range(10_000):
        recorded.ignored.binding(binding(f"b{number}", namespace="evil"), "no")
    assert len(recorded.events) == ignored_objects.REPORTS.burst * GROUP_SHARE
    recorded.ignored.identity(identity("bad"), "no")
    assert recorded.events[-1][1] == "default/bad"
    assert recorded.counted == 10_001
    lines = [vars(record).get("reason") or record.message for record in caplog.records]
    assert lines == ["no"] * int(ignored_objects.REPORTS.burst * GROUP_SHARE) + [ignored_objects.OMISSION, "no"]


def test_an_ignored_object_is_reported_again_later() -> None:
    recorded = RecordedEvents()
    for _ in range(1000):
        recorded.ignored.binding(binding(namespace="evil"), "no")
    before = len(recorded.events)
    recorded.now += 60.0
    recorded.ignored.binding(binding(namespace="evil"), "no")
    assert len(recorded.events) == before + 1


def test_many_namespaces_together_are_limited_too() -> None:
    recorded = RecordedEvents()
    for number in range(3 * GROUPS_MAX):
        recorded.ignored.binding(binding(namespace=f"evil{number}"), "no")
    assert len(recorded.events) == ignored_objects.REPORTS.burst


NODE_REPORTS = int(mirror_pods.REPORTS.burst * GROUP_SHARE)


class Recorded:
    """What an Informer calls behind MirrorPods."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def upserted(self, old: ScheduledPod | None, new: ScheduledPod) -> None:
        self.seen.append(new.metadata.name)

    def deleted(self, old: ScheduledPod) -> None:
        self.seen.append(f"-{old.metadata.name}")


async def test_a_mirror_pod_gets_no_assignment_and_another_pod_does(world: MicWorld) -> None:
    await world.settle_with(pod("mirror", mirror=True), pod("web"), identity(), binding())
    assert sorted(world.objects) == [("default", "web-default-demo")]


async def test_an_assignment_of_an_older_mic_for_it_is_revoked_and_its_identity_detached(
    world: MicWorld,
) -> None:
    await world.settle_with(pod(), identity(), binding())
    assert world.statuses() == {"web-default-demo": "Assigned"}
    world.add(pod(mirror=True))  # the stored pod, as this version reads it
    await world.settle()
    assert not world.objects
    assert world.attached(VM) == set()


async def test_a_mirror_pod_has_one_log_line_and_one_event(world: MicWorld, caplog: pytest.LogCaptureFixture) -> None:
    inner = Recorded()
    handler = MirrorPods(inner, world.recorder)
    mirror = pod("mirror", mirror=True)
    handler.upserted(None, mirror)
    handler.upserted(mirror, mirror)
    handler.upserted(None, pod("web"))
    handler.upserted(None, pod("unlabelled", mirror=True, label=""))
    handler.deleted(mirror)
    assert [record.__dict__["pod"] for record in caplog.records] == ["default/mirror"]
    assert inner.seen == ["mirror", "mirror", "web", "unlabelled", "-mirror"]
    await world.recorder.flushed()
    events = world.api.store.list("events")
    assert [(event["reason"], event["involvedObject"]["name"]) for event in events] == [(IGNORED, "mirror")]
    assert "mirror pod" in events[0]["message"]


async def test_thousands_of_mirror_pods_do_not_fill_the_log(world: MicWorld, caplog: pytest.LogCaptureFixture) -> None:
    handler = MirrorPods(Recorded(), world.recorder, clock=now)
    for number in range(2000):
        handler.upserted(None, pod(f"m{number}", mirror=True))
    handler.upserted(None, pod("other", node="n1", mirror=True))
    lines = [vars(record).get("pod") or record.message for record in caplog.records]
    assert lines == [*(f"default/m{number}" for number in range(NODE_REPORTS)), mirror_pods.OMISSION, "default/other"]
    await world.recorder.flushed()
    events = [event["involvedObject"]["name"] for event in world.api.store.list("events")]
    assert sorted(events) == sorted([*(f"m{number}" for number in range(NODE_REPORTS)), "other"])


def test_a_plan_lists_it_among_the_ignored_objects() -> None:
    snapshot = Snapshot(
        pods=(pod("mirror", mirror=True), pod("web")),
        nodes=(node(),),
        identities=(identity(),),
        bindings=(binding(),),
        assigned=(),
    )
    (ignored,) = left_out(snapshot, Policy(), force_namespaced=False)
    assert (ignored.kind, ignored.name, ignored.pods) == ("Pod", "default/mirror", 1)
    assert "mirror pod" in ignored.why
