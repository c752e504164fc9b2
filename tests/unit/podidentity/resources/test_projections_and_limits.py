"""Paths of kinds, the fields that projections keep, old field names, and limits.

Objects over a limit are refused, those at it pass, and metadata that no program reads is not kept.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity import object_limits as limits
from podidentity.object_limits import oversized, reduced
from podidentity.old_field_names import fold
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    LABEL_VALUE_MAX,
    NODES,
    PODS,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    AzurePodIdentityException,
    AzurePodIdentityExceptionSpec,
    Kind,
    Meta,
    Node,
    OwnerReference,
    Pod,
    PodMeta,
    Resource,
    SecretReference,
    nodename_label,
)


@pytest.mark.parametrize(
    ("kind", "arguments", "path"),
    [
        (PODS, {}, "/api/v1/pods"),
        (PODS, {"namespace": "ns"}, "/api/v1/namespaces/ns/pods"),
        (PODS, {"namespace": "ns", "name": "a", "subresource": "status"}, "/api/v1/namespaces/ns/pods/a/status"),
        (NODES, {"namespace": "ignored", "name": "n"}, "/api/v1/nodes/n"),
        (IDENTITIES, {"namespace": "ns"}, "/apis/aadpodidentity.k8s.io/v1/namespaces/ns/azureidentities"),
    ],
)
def test_a_kind_knows_its_paths(kind: Kind[Any], arguments: dict[str, str], path: str) -> None:
    assert kind.path(**arguments) == path


def read(document: bytes) -> Pod:
    return msgspec.json.decode(document, type=Pod)


def test_large_fields_that_are_not_read_are_not_kept() -> None:
    large = "x" * 1000
    document = {"metadata": {"name": "a", "annotations": {"large": large}, "finalizers": [large], "labels": {"l": "v"}}}
    pod = read(msgspec.json.encode(document))
    assert large not in repr(pod)
    assert (pod.metadata.name, pod.metadata.label("l")) == ("a", "v")


def test_all_addresses_of_a_pod_are_kept_with_the_primary_first() -> None:
    pod = read(b'{"status":{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}]}}')
    assert pod.addresses == ("10.0.0.1", "fd00::1")
    assert read(b'{"status":{"podIP":"10.0.0.1"}}').addresses == ("10.0.0.1",)
    assert read(b'{"status":{"podIPs":[{}]}}').addresses == ()


@pytest.mark.parametrize(
    ("phase", "finished"), [("Running", False), ("Pending", False), ("Succeeded", True), ("Failed", True)]
)
def test_a_finished_pod_has_no_address(phase: str, finished: bool) -> None:
    assert read(b'{"status":{"phase":"%s"}}' % phase.encode()).finished is finished


def test_a_pod_being_deleted_is_ending() -> None:
    assert read(b'{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}').ending
    assert not read(b"{}").ending


def test_the_owner_of_a_pod_is_kept() -> None:
    document = (
        b'{"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u",'
        b'"controller":true,"blockOwnerDeletion":true},{"kind":"X","name":"x","controller":null}]}}'
    )
    assert read(document).metadata.owner_references == [
        OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="web-1", uid="u", controller=True),
        OwnerReference(kind="X", name="x"),
    ]
    assert read(b"{}").metadata.owner_references is None


def test_fields_that_go_servers_spell_in_capitals_are_read() -> None:
    node = msgspec.json.decode(b'{"spec":{"providerID":"azure:///x"}}', type=Node)
    assert node.spec.provider_id == "azure:///x"
    identity = msgspec.json.decode(
        b'{"spec":{"type":1,"clientID":"c","tenantID":"t","resourceID":"r","adResourceID":"a","adEndpoint":"e",'
        b'"auxiliaryTenantIDs":null,"clientPassword":{"name":"n","namespace":"ns"}}}',
        type=AzureIdentity,
    ).spec
    assert (identity.type, identity.client_id, identity.tenant_id, identity.resource_id) == (1, "c", "t", "r")
    assert (identity.ad_resource_id, identity.ad_endpoint, identity.auxiliary_tenant_ids) == ("a", "e", None)
    assert identity.client_password is not None
    assert (identity.client_password.name, identity.client_password.namespace) == ("n", "ns")


@pytest.mark.parametrize(
    ("value", "namespaced"), [("namespaced", True), ("Namespaced", True), ("", False), ("no", False)]
)
def test_an_identity_is_namespaced_by_its_annotation(value: str, namespaced: bool) -> None:
    identity = AzureIdentity(metadata=Meta(annotations={"aadpodidentity.k8s.io/Behavior": value}))
    assert identity.namespaced is namespaced


@pytest.mark.parametrize(
    ("kind", "old", "present"),
    [
        (IDENTITIES, {"ClientID": "c", "ResourceID": "r"}, {"clientID": "c", "resourceID": "r"}),
        (IDENTITIES, {"clientid": "c"}, {"clientID": "c"}),
        (IDENTITIES, {"ClientID": "old", "clientID": "present"}, {"clientID": "present"}),
        (IDENTITIES, {"clientID": "present", "ClientID": "old"}, {"clientID": "present"}),
        (IDENTITIES, {"ClientID": "old", "clientID": None}, {"clientID": "old"}),
        (IDENTITIES, {"clientID": None, "clientid": "old"}, {"clientID": "old"}),
        (IDENTITIES, {"ClientID": None}, {}),
        (IDENTITIES, {"auxiliaryTenantIDs": None}, {"auxiliaryTenantIDs": None}),
        (IDENTITIES, {"AuxiliaryTenantIDs": ["t"]}, {"auxiliaryTenantIDs": ["t"]}),
        (IDENTITIES, {"Replicas": 1, "Metadata": {"Name": "n"}}, {"replicas": 1, "metadata": {"Name": "n"}}),
        (
            IDENTITIES,
            {"ClientPassword": {"Name": "n", "Namespace": "ns"}},
            {"clientPassword": {"name": "n", "namespace": "ns"}},
        ),
        (IDENTITIES, {"somethingElse": {"ClientID": 1}}, {"somethingElse": {"ClientID": 1}}),
        (IDENTITIES, {"Selector": "no field of this kind"}, {"Selector": "no field of this kind"}),
        (BINDINGS, {"AzureIdentity": "i", "Selector": "s"}, {"azureIdentity": "i", "selector": "s"}),
        (EXCEPTIONS, {"PodLabels": {"ClientID": "x"}}, {"podLabels": {"ClientID": "x"}}),
        (
            ASSIGNED_IDENTITIES,
            {"azureIdentityRef": {"metadata": {"labels": {"Pod": "x"}}, "spec": {"TenantID": "t"}}},
            {"azureIdentityRef": {"metadata": {"labels": {"Pod": "x"}}, "spec": {"tenantID": "t"}}},
        ),
        (
            ASSIGNED_IDENTITIES,
            {"azurebindingref": {"spec": {"Weight": 1}}, "podnamespace": "ns"},
            {"azureBindingRef": {"spec": {"weight": 1}}, "podNamespace": "ns"},
        ),
    ],
)
def test_old_field_names_are_converted_and_values_of_the_user_are_not(
    kind: Kind[Any], old: dict[str, Any], present: dict[str, Any]
) -> None:
    assert fold({"spec": old}, kind.shape) == {"spec": present}
    assert fold({"spec": present}, kind.shape) == {"spec": present}


@given(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True))
def test_a_node_label_has_a_valid_length_and_starts_like_the_name(node: str) -> None:
    label = nodename_label(node)
    assert len(label) <= LABEL_VALUE_MAX
    assert label[-1].isalnum()
    assert (label == node) == (len(node) <= LABEL_VALUE_MAX)


def test_long_node_names_with_a_common_prefix_have_different_labels() -> None:
    assert nodename_label("n" * 80) != nodename_label("n" * 81)


def identity(**spec: Any) -> AzureIdentity:
    return AzureIdentity(metadata=Meta(name="i", namespace="ns"), spec=AzureIdentitySpec(**spec))


def binding(**spec: Any) -> AzureIdentityBinding:
    return AzureIdentityBinding(metadata=Meta(name="b", namespace="ns"), spec=AzureIdentityBindingSpec(**spec))


def exception(labels: dict[str, str]) -> AzurePodIdentityException:
    return AzurePodIdentityException(spec=AzurePodIdentityExceptionSpec(pod_labels=labels))


def labelled(number: int) -> AzureIdentity:
    return AzureIdentity(metadata=Meta(labels={str(index): "x" for index in range(number)}))


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
    ("spec.podLabels", limits.POD_LABELS_MAX, lambda n: exception({str(index): "x" for index in range(n)})),
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
    copy = reduced(AzureIdentity(metadata=meta)).metadata
    assert copy == Meta(
        name="i", namespace="ns", uid="u", labels={"a": "b"}, annotations={BEHAVIOR_ANNOTATION: "namespaced"}
    )


def test_an_assigned_identity_keeps_its_own_metadata_which_is_written_back() -> None:
    meta = Meta(name="a", annotations={"other": "x"}, finalizers=["f"])
    embedded = AzureIdentity(metadata=Meta(name="i", annotations={"other": "x"}))
    copy = reduced(AzureAssignedIdentity(metadata=meta, spec=AzureAssignedIdentitySpec(azure_identity_ref=embedded)))
    assert copy.metadata == meta
    assert copy.spec.azure_identity_ref.metadata == Meta(name="i")


def test_a_small_object_is_returned_as_it_is() -> None:
    for resource in (Pod(metadata=PodMeta(name="p", labels={"a": "b"})), AzureIdentity(metadata=Meta(name="i"))):
        assert reduced(resource) is resource


def test_a_pod_keeps_a_limited_number_of_labels_and_always_the_binding_label() -> None:
    labels = {f"{number:05}": "x" for number in range(1000)} | {BINDING_LABEL: "mine"}
    copy = reduced(Pod(metadata=PodMeta(labels=labels)))
    assert len(copy.metadata.labels or ()) == limits.KEPT_LABELS_MAX + 1
    assert copy.binding_label == "mine"
    assert copy.metadata.label("00000") == "x"


def test_node_and_controller_owners_are_kept_before_others() -> None:
    others = [OwnerReference(kind="K", name=str(number)) for number in range(1000)]
    node, controller = OwnerReference(kind="Node", name="n"), OwnerReference(kind="ReplicaSet", controller=True)
    owners = reduced(Pod(metadata=PodMeta(owner_references=[*others, node, controller]))).metadata.owner_references
    assert owners is not None
    assert len(owners) == limits.KEPT_OWNERS_MAX
    assert {node.name, controller.name} <= {owner.name for owner in owners}
    assert node in owners
    assert controller in owners
