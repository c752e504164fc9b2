"""The parts of watched objects that MIC keeps: every field that decides, and one copy of equal values."""

import gc
import itertools

import msgspec
import pytest

from mic.cluster.kept_parts import KeptParts
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
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    Meta,
    NodeSpec,
    OwnerReference,
    Pod,
    PodMarks,
    PodMeta,
    PodSpec,
    PodStatus,
)

OWNERS = (
    None,
    [OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="web", controller=True)],
    [OwnerReference(api_version="v1", kind="Node", name="n0")],
)
LABELS: tuple[dict[str, str] | None, ...] = (
    None,
    {},
    {"app": "web"},
    {BINDING_LABEL: "demo", "app": "web"},
    {BINDING_LABEL: ""},
)


def an_assigned_identity(number: int = 0, *, identity_version: str = "7", resource_id: str = "/id") -> bytes:
    resource = AzureAssignedIdentity(
        metadata=Meta(
            name=f"web-{number}",
            namespace="default",
            uid=f"uid-{number}",
            resource_version=str(number),
            labels={NODENAME_LABEL: "n0"},
            annotations={"note": str(number)},
            finalizers=[FINALIZER],
        ),
        spec=AzureAssignedIdentitySpec(
            azure_identity_ref=AzureIdentity(
                metadata=Meta(name="demo", namespace="default", resource_version=identity_version),
                spec=AzureIdentitySpec(resource_id=resource_id, client_id="client"),
            ),
            azure_binding_ref=AzureIdentityBinding(
                metadata=Meta(name="demo", namespace="default"),
                spec=AzureIdentityBindingSpec(azure_identity="demo", selector="demo"),
            ),
            pod=f"web-{number}",
            pod_namespace="default",
            nodename="n0",
        ),
        status=AzureAssignedIdentityStatus(status="Assigned", available_replicas=1),
    )
    return msgspec.json.encode(resource)


def read(data: bytes) -> AzureAssignedIdentity:
    return decode_object(ASSIGNED_IDENTITIES, data)


def test_a_pod_keeps_what_decides_about_its_assignments_and_nothing_else() -> None:
    phases, marks = ("", "Running", "Succeeded", "Failed"), (None, PodMarks(), PodMarks(mirror="hash"))
    deletions = (None, "2026-01-01T00:00:00Z")
    for phase, mark, labels, owners, deletion in itertools.product(phases, marks, LABELS, OWNERS, deletions):
        meta = PodMeta(name="web", namespace="default", uid="u", resource_version="7", labels=labels, marks=mark)
        meta = msgspec.structs.replace(meta, deletion_timestamp=deletion, owner_references=owners)
        spec, status = PodSpec(node_name="n0", service_account_name="sa"), PodStatus(phase=phase, pod_ip="10.0.0.1")
        pod = Pod(metadata=meta, spec=spec, status=status)
        kept = KeptParts().pod(decode_object(SCHEDULED_PODS, msgspec.json.encode(pod)))
        for attribute in ("key", "finished", "mirror", "binding_label"):
            assert getattr(kept, attribute) == getattr(pod, attribute), (attribute, pod)
        for field in ("uid", "resource_version", "deletion_timestamp"):
            assert getattr(kept.metadata, field) == getattr(pod.metadata, field)
        assert msgspec.to_builtins(kept.spec) == {"nodeName": "n0"}
        assert set(kept.metadata.labels or {}) <= {BINDING_LABEL}
        assert kept.mirror or not kept.metadata.owner_references


def test_a_node_keeps_its_names_its_version_and_its_provider_id() -> None:
    document = {
        "metadata": {"name": "n0", "uid": "u", "resourceVersion": "1", "labels": {"zone": "1"}},
        "spec": {"providerID": "azure:///vm"},
    }
    kept = KeptParts().node(decode_object(NODES, msgspec.json.encode(document)))
    assert kept.metadata.labels is None
    assert (kept.key, kept.metadata.uid, kept.metadata.resource_version) == (("", "n0"), "u", "1")
    assert kept.spec == NodeSpec(provider_id="azure:///vm")


def test_an_assigned_identity_is_kept_with_all_that_is_written_back() -> None:
    kept_parts = KeptParts()
    for number in range(3):
        resource = read(an_assigned_identity(number))
        assert kept_parts.assigned(resource) == reduced(resource)


@pytest.mark.parametrize(
    "other",
    [
        {"labels": {NODENAME_LABEL: "n0", "team": "a"}},
        {"finalizers": [FINALIZER, "other"]},
        {"finalizers": None},
        {"annotations": None},
        {"owner_references": [OwnerReference(kind="Node")]},
        {"deletion_timestamp": "2026-01-01T00:00:00Z"},
    ],
)
def test_metadata_of_other_clients_is_kept(other: dict[str, object]) -> None:
    resource = read(an_assigned_identity())
    changed = msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, **other))
    assert KeptParts().assigned(changed) == reduced(changed)


def test_another_number_of_replicas_is_kept() -> None:
    resource = read(an_assigned_identity())
    changed = msgspec.structs.replace(
        resource, status=AzureAssignedIdentityStatus(status="Assigned", available_replicas=2)
    )
    assert KeptParts().assigned(changed).status.available_replicas == 2


def test_equal_parts_of_different_objects_are_one_object() -> None:
    kept_parts = KeptParts()
    first, second = (kept_parts.assigned(read(an_assigned_identity(number))) for number in range(2))
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


@pytest.mark.parametrize("other", [{"identity_version": "8"}, {"resource_id": "/other"}])
def test_an_embedded_copy_that_differs_is_not_shared(other: dict[str, str]) -> None:
    kept_parts = KeptParts()
    first = kept_parts.assigned(read(an_assigned_identity(0)))
    second = kept_parts.assigned(read(an_assigned_identity(1, **other)))
    assert first.spec.azure_identity_ref != second.spec.azure_identity_ref
    assert second == reduced(read(an_assigned_identity(1, **other)))


def test_embedded_copies_are_forgotten_with_the_last_object() -> None:
    kept_parts = KeptParts()
    kept = kept_parts.assigned(read(an_assigned_identity()))
    assert len(kept_parts._identities) == 1
    del kept
    gc.collect()
    assert len(kept_parts._identities) == len(kept_parts._bindings) == 0
