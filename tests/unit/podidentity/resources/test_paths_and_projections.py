"""Paths of kinds, the fields that projections keep, and the conversion of old field names."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.old_field_names import fold
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    LABEL_VALUE_MAX,
    NODES,
    PODS,
    AzureIdentity,
    Kind,
    Meta,
    Node,
    OwnerReference,
    Pod,
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


RUNNING = b'{"state":{"running":{"startedAt":"x"}}}'
TERMINATED = b'{"state":{"terminated":{"exitCode":0}}}'


@pytest.mark.parametrize(
    ("document", "ending"),
    [
        (b"{}", False),
        (b'{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}', True),
        (b'{"status":{"containerStatuses":[]}}', False),
        (b'{"status":{"containerStatuses":[%s,%s]}}' % (RUNNING, TERMINATED), False),
        (b'{"status":{"containerStatuses":[%s,%s]}}' % (TERMINATED, TERMINATED), True),
    ],
    ids=["fresh", "deleted", "no-containers", "one-runs", "all-terminated"],
)
def test_a_pod_is_ending_if_deleted_or_all_containers_terminated(document: bytes, ending: bool) -> None:
    assert read(document).ending is ending


def test_the_owner_of_a_pod_is_kept() -> None:
    document = (
        b'{"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u",'
        b'"controller":true,"blockOwnerDeletion":true},{"kind":"X","name":"x","controller":null}]}}'
    )
    assert read(document).metadata.owner_references == [
        OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="web-1", controller=True),
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
