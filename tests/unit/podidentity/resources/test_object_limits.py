"""Objects over a limit are refused, those at it pass, and metadata that no program reads is not kept."""

from typing import Any

import msgspec
import pytest

from podidentity import object_limits as limits
from podidentity.object_limits import oversized, reduced
from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    AzurePodIdentityException,
    AzurePodIdentityExceptionSpec,
    Meta,
    OwnerReference,
    Pod,
    PodMeta,
    Resource,
    SecretReference,
)


def identity(**spec: Any) -> AzureIdentity:
    return AzureIdentity(metadata=Meta(name="i", namespace="ns"), spec=AzureIdentitySpec(**spec))


def binding(**spec: Any) -> AzureIdentityBinding:
    return AzureIdentityBinding(metadata=Meta(name="b", namespace="ns"), spec=AzureIdentityBindingSpec(**spec))


def exception(labels: dict[str, str]) -> AzurePodIdentityException:
    return AzurePodIdentityException(spec=AzurePodIdentityExceptionSpec(pod_labels=labels))


def labelled(number: int) -> AzureIdentity:
    return AzureIdentity(metadata=Meta(labels={str(each): "x" for each in range(number)}))


def annotated(length: int) -> AzureIdentity:
    return AzureIdentity(metadata=Meta(annotations={BEHAVIOR_ANNOTATION: "x" * length}))


CASES = [
    ("spec.resourceID", limits.RESOURCE_ID_MAX, lambda n: identity(resource_id="x" * n)),
    ("spec.clientID", limits.CLIENT_ID_MAX, lambda n: identity(client_id="x" * n)),
    ("spec.tenantID", limits.TENANT_ID_MAX, lambda n: identity(tenant_id="x" * n)),
    ("spec.adResourceID", limits.RESOURCE_ID_MAX, lambda n: identity(ad_resource_id="x" * n)),
    ("spec.adEndpoint", limits.ENDPOINT_MAX, lambda n: identity(ad_endpoint="x" * n)),
    ("clientPassword.name", limits.NAME_MAX, lambda n: identity(client_password=SecretReference(name="x" * n))),
    (
        "clientPassword.namespace",
        limits.NAME_MAX,
        lambda n: identity(client_password=SecretReference(namespace="x" * n)),
    ),
    ("spec.auxiliaryTenantIDs", limits.AUXILIARY_TENANTS_MAX, lambda n: identity(auxiliary_tenant_ids=["x"] * n)),
    (
        "an entry of spec.auxiliaryTenantIDs",
        limits.TENANT_ID_MAX,
        lambda n: identity(auxiliary_tenant_ids=["", "x" * n]),
    ),
    ("labels", limits.POD_LABELS_MAX, labelled),
    (BEHAVIOR_ANNOTATION, limits.ANNOTATION_MAX, annotated),
    ("spec.azureIdentity", limits.NAME_MAX, lambda n: binding(azure_identity="x" * n)),
    ("spec.selector", limits.NAME_MAX, lambda n: binding(selector="x" * n)),
    ("spec.podLabels", limits.POD_LABELS_MAX, lambda n: exception({str(each): "x" for each in range(n)})),
    ("a key of spec.podLabels", limits.LABEL_KEY_MAX, lambda n: exception({"x" * n: ""})),
    ("a value of spec.podLabels", limits.LABEL_VALUE_MAX, lambda n: exception({"x": "y" * n})),
]


@pytest.mark.parametrize(("field", "most", "make"), CASES, ids=[case[0] for case in CASES])
def test_a_field_over_its_limit_is_named_and_one_at_the_limit_is_accepted(field: str, most: int, make: Any) -> None:
    assert oversized(make(most)) == ""
    assert f"{field} has {most + 1}" in oversized(make(most + 1))


def test_the_message_does_not_quote_the_overlong_value() -> None:
    assert len(oversized(identity(client_id="secret" * 100_000))) < 200
    assert "secret" not in oversized(identity(client_id="secret" * 100_000))


@pytest.mark.parametrize("resource", [Resource(), Pod(), AzureAssignedIdentity(), AzureIdentity()])
def test_other_kinds_and_empty_objects_are_accepted(resource: Resource) -> None:
    assert oversized(resource) == ""


def test_every_text_that_an_identity_stores_has_a_limit() -> None:
    """A field added to the projection without a limit fails here."""
    long = "x" * 100_000
    for field in msgspec.structs.fields(AzureIdentitySpec):
        value: Any = [long] if "list" in str(field.type) else long
        if "SecretReference" in str(field.type):
            value = SecretReference(name=long)
        if field.type is not int:
            assert oversized(identity(**{field.name: value})), field.name


def test_custom_resources_keep_only_the_annotations_that_are_read() -> None:
    meta = Meta(
        name="i",
        namespace="ns",
        uid="u",
        labels={"a": "b"},
        annotations={"other": "x" * 1000, BEHAVIOR_ANNOTATION: "namespaced"},
        finalizers=["f"],
        owner_references=[OwnerReference(kind="K")],
    )
    kept = reduced(AzureIdentity(metadata=meta)).metadata
    assert kept == Meta(
        name="i", namespace="ns", uid="u", labels={"a": "b"}, annotations={BEHAVIOR_ANNOTATION: "namespaced"}
    )


def test_an_assigned_identity_keeps_its_own_metadata_which_is_written_back() -> None:
    meta = Meta(name="a", annotations={"other": "x"}, finalizers=["f"])
    embedded = AzureIdentity(metadata=Meta(name="i", annotations={"other": "x"}))
    kept = reduced(AzureAssignedIdentity(metadata=meta, spec=AzureAssignedIdentitySpec(azure_identity_ref=embedded)))
    assert kept.metadata == meta
    assert kept.spec.azure_identity_ref.metadata == Meta(name="i")


def test_a_small_object_is_returned_as_it_is() -> None:
    for resource in (Pod(metadata=PodMeta(name="p", labels={"a": "b"})), AzureIdentity(metadata=Meta(name="i"))):
        assert reduced(resource) is resource


def test_a_pod_keeps_a_limited_number_of_labels_and_always_the_binding_label() -> None:
    labels = {f"{number:05}": "x" for number in range(1000)} | {BINDING_LABEL: "mine"}
    kept = reduced(Pod(metadata=PodMeta(labels=labels)))
    assert len(kept.metadata.labels or ()) == limits.KEPT_LABELS_MAX + 1
    assert kept.binding_label == "mine"
    assert kept.metadata.label("00000") == "x"


def test_node_and_controller_owners_are_kept_before_others() -> None:
    others = [OwnerReference(kind="K", name=str(number)) for number in range(1000)]
    node, controller = OwnerReference(kind="Node", name="n"), OwnerReference(kind="ReplicaSet", controller=True)
    kept = reduced(Pod(metadata=PodMeta(owner_references=[*others, node, controller]))).metadata.owner_references
    assert kept is not None
    assert len(kept) == limits.KEPT_OWNERS_MAX
    assert {node.name, controller.name} <= {each.name for each in kept}
    assert node in kept
    assert controller in kept
