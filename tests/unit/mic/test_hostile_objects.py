"""Limits of what tenants and other clients write into objects: embedded copies, and the pending detaches."""

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from podidentity import object_limits
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
    Meta,
    SecretReference,
)
from tests.support.filled_view import FilledView
from tests.support.objects import binding, identity, identity_id, node, pod, set_id, vm_id

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
    cluster = FilledView(on_ignored=lambda which, why: ignored.append((which.metadata.name, why)))
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
    began = time.process_time()
    assert pending_detaches(text) == ()
    assert time.process_time() - began < 0.5  # the garbage collector may run in between


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


def test_a_written_list_is_read_back() -> None:
    several = (ONE, PendingDetach(set_id(), identity_id("two")))
    assert pending_detaches(encode_pending_detaches(several)) == several


def test_the_number_of_entries_and_the_length_are_limited() -> None:
    many = [PendingDetach(vm_id(f"n{number}"), identity_id("one")) for number in range(PENDING_DETACHES_MAX + 10)]
    assert pending_detaches(encode_pending_detaches(many)) == tuple(many[:PENDING_DETACHES_MAX])
    assert pending_detaches(encode_pending_detaches([ONE]) + " " * PENDING_DETACHES_TEXT_MAX) == ()
    one = encode_pending_detaches([ONE])[1:]
    assert pending_detaches("[" + "0," * (PENDING_DETACHES_MAX - 1) + one) == (ONE,)
    assert pending_detaches("[" + "0," * PENDING_DETACHES_MAX + one) == ()


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=30).map(json.dumps))
def test_no_text_causes_an_exception(text: str) -> None:
    assert all(isinstance(each, PendingDetach) for each in pending_detaches(text))
