"""Parts of a tenant's identity and binding that MIC copies into each pod's object, and their maximal size."""

import json

import msgspec
import pytest

from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, misconfigured, unchanged
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
    SecretReference,
)
from tests.support.filled_view import FilledView
from tests.support.objects import binding, identity, node, pod

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
