"""Type upgrade of one object: only the spelling changes."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mic.startup.spellings import KINDS, dropping, respelled
from podidentity.kube.decoding import decode_object
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, Kind

META = {
    "name": "demo",
    "namespace": "default",
    "resourceVersion": "7",
    "annotations": {"ClientID": "an annotation's own name"},
    "finalizers": ["theirs"],
}
EMBEDDED = {"apiVersion": f"{GROUP}/v1", "metadata": {"name": "demo", "labels": {"Pod": "x"}}}


def document(spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1", "kind": "any", "metadata": META, "spec": spec, **more}


@pytest.mark.parametrize(
    ("kind", "old", "present"),
    [
        (
            IDENTITIES,
            {
                "type": 1,
                "ResourceID": "r",
                "ClientID": "c",
                "ClientPassword": {"Name": "n", "Namespace": "ns"},
                "TenantID": "t",
                "ADResourceID": "a",
                "ADEndpoint": "e",
                "Replicas": 1,
                "theirOwn": {"ClientID": "x"},
            },
            {
                "type": 1,
                "resourceID": "r",
                "clientID": "c",
                "clientPassword": {"name": "n", "namespace": "ns"},
                "tenantID": "t",
                "adResourceID": "a",
                "adEndpoint": "e",
                "replicas": 1,
                "theirOwn": {"ClientID": "x"},
            },
        ),
        (
            BINDINGS,
            {"azureidentity": "i", "Selector": "s", "Weight": 2},
            {"azureIdentity": "i", "selector": "s", "weight": 2},
        ),
        (EXCEPTIONS, {"PodLabels": {"Selector": "x"}}, {"podLabels": {"Selector": "x"}}),
        (
            ASSIGNED_IDENTITIES,
            {
                "azureIdentityRef": {**EMBEDDED, "kind": "AzureIdentity", "spec": {"ResourceID": "r"}},
                "AzureBindingRef": {"metadata": {"name": "b"}, "spec": {"selector": "s", "AzureIdentity": "i"}},
                "Pod": "web",
                "PodNamespace": "ns",
                "NodeName": "n0",
            },
            {
                "azureIdentityRef": {**EMBEDDED, "kind": "AzureIdentity", "spec": {"resourceID": "r"}},
                "azureBindingRef": {
                    "apiVersion": f"{GROUP}/v1",
                    "kind": "AzureIdentityBinding",
                    "metadata": {"name": "b"},
                    "spec": {"selector": "s", "azureIdentity": "i"},
                },
                "pod": "web",
                "podNamespace": "ns",
                "nodename": "n0",
            },
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)
def test_every_field_gets_its_present_spelling_and_other_content_is_unchanged(
    kind: Kind[Any], old: dict[str, Any], present: dict[str, Any]
) -> None:
    status = {"status": "Assigned", "availableReplicas": 1, "Other": 1}
    assert respelled(kind, document(old, status=status, Extra=[1])) == document(present, status=status, Extra=[1])
    assert respelled(kind, document(present, status=status, Extra=[1])) is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("spec", [{}, None, "no map", {"unknown": 1}])
def test_an_object_without_old_field_names_is_unchanged(kind: Kind[Any], spec: Any) -> None:
    assert respelled(kind, document(spec)) is None


def test_if_both_spellings_exist_the_present_one_is_kept() -> None:
    made = respelled(BINDINGS, document({"Selector": "old", "selector": "present"}))
    assert made is not None
    assert made["spec"] == {"selector": "present"}


FIELDS = {
    IDENTITIES.name: ("resourceID", "clientID", "tenantID", "adResourceID", "adEndpoint"),
    BINDINGS.name: ("azureIdentity", "selector"),
}
SPELLINGS: list[Callable[[str], str]] = [str, str.lower, str.upper, lambda name: name[0].upper() + name[1:]]


@given(
    kind=st.sampled_from([IDENTITIES, BINDINGS]),
    data=st.data(),
    spelled=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(SPELLINGS), st.none() | st.text(max_size=3))),
)
def test_a_rewritten_object_means_what_it_meant(
    kind: Kind[Any], data: st.DataObject, spelled: list[tuple[int, Callable[[str], str], str | None]]
) -> None:
    names = FIELDS[kind.name]
    spec = {spelling(names[number % len(names)]): value for number, spelling, value in spelled}
    stored = document(spec)
    made = respelled(kind, stored)
    assert (made is None) == (set(spec) <= set(names))
    if made is not None:
        meant = decode_object(kind, json.dumps(stored).encode(), old_field_names=True)
        assert decode_object(kind, json.dumps(made).encode()) == meant
        assert respelled(kind, made) is None
        copy = {"azureIdentityRef" if kind is IDENTITIES else "azureBindingRef": {"spec": spec, "metadata": {}}}
        before = decode_object(ASSIGNED_IDENTITIES, json.dumps(document(copy)).encode(), old_field_names=True)
        embedding = respelled(ASSIGNED_IDENTITIES, document(copy))
        assert decode_object(ASSIGNED_IDENTITIES, json.dumps(embedding).encode()) == before


def described(spec: dict[str, Any], kind: Kind[Any] = IDENTITIES) -> bytes:
    named = [{"group": kind.group, "version": kind.version, "kind": kind.name}]
    schema = {"type": "object", "properties": {"spec": spec}, "x-kubernetes-group-version-kind": named}
    return msgspec.json.encode({"components": {"schemas": {"a": schema, "AzureIdentityList": {"type": "object"}}}})


def test_a_schema_that_drops_unknown_fields_drops_old_field_names() -> None:
    assert dropping(described({"type": "object", "properties": {"clientID": {"type": "string"}}})) == [IDENTITIES]
    assert dropping(described({"type": "object"}, BINDINGS)) == [BINDINGS]
    assert dropping(described({"type": "object", "x-kubernetes-preserve-unknown-fields": True})) == []


@pytest.mark.parametrize(
    "schema", [b"", b"[]", b"{}", b'{"components":{"schemas":{"a":{"properties":null}}}}', b"\xff"]
)
def test_an_unreadable_schema_counts_as_keeping_them(schema: bytes) -> None:
    assert dropping(schema) == []
