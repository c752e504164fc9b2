"""Objects of the Go implementation are in sync for MIC, and the Go implementation can read those of MIC. Type upgrade
of one object: only the spelling changes.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mic.decisions import documents
from mic.decisions.assignments import ExistingAssignment
from mic.startup.object_upgrade import KINDS, kinds_that_drop_old_names, with_current_names
from podidentity.kube.decoding import decode_object
from podidentity.kube.errors import ApiError
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, MESSAGE_ANNOTATION, Kind
from tests.support.memory_api import MemoryApi
from tests.support.mic.go_objects import CASES, FOLDER, cleared, load, read, written
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import identity_id, pod

BY_NAME = {kind.name: kind for kind in KINDS}

Documents = Mapping[str, dict[str, Any]]


async def taken_over(world: MicWorld, case: Documents) -> list[str]:
    """Let MIC find the objects of the case. Return the steps of its first pass."""
    world.host(VM, "demo")
    world.client.old_field_names = True
    world.add(pod(), read(IDENTITIES, case["AzureIdentity"]), read(BINDINGS, case["AzureIdentityBinding"]))
    world.api.store.create(ASSIGNED, cleared(case["AzureAssignedIdentity"], "default"))
    stored = world.api.store.get(ASSIGNED, "web-default-demo", "default")
    world.view.assigned.upserted(None, read(ASSIGNED_IDENTITIES, stored))
    return await world.steps()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_assignments_of_the_go_implementation_are_in_sync(world: MicWorld, path: Path) -> None:
    assert await taken_over(world, load(path)) == []
    assert world.statuses() == {"web-default-demo": "Assigned"}
    await world.settle_without(pod())
    principal = "service-principal" in path.stem
    assert world.attached(VM) == ({"demo"} if principal else set()), "MIC owns what the Go implementation attached"
    assert world.objects == {}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_they_stay_in_sync_in_any_order_of_upgrades(path: Path) -> None:
    case = load(path)
    for name in case:
        upgraded = with_current_names(BY_NAME[name], case[name])
        assert (upgraded is not None) == path.stem.startswith("v1.5")
        if upgraded is not None:
            case[name] = upgraded
            async with MicWorld() as world:
                assert await taken_over(world, case) == []


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_an_outdated_assignment_of_the_go_implementation_is_updated(world: MicWorld, path: Path) -> None:
    case = load(path)
    spec = case["AzureIdentity"]["spec"]
    spec["TenantID" if "ClientID" in spec else "tenantID"] = "another"
    assert await taken_over(world, case) == ["update"]
    (assigned,) = world.objects.values()
    assert assigned.spec.azure_identity_ref.spec.tenant_id == "another"
    assert assigned.status.status == "Assigned"


NAME = "web-default-demo"
REPLACE = [{"op": "replace", "path": "/status/status", "value": "Assigned"}]
"""The Go implementation's patch of a status."""


async def test_each_can_patch_the_status_of_an_object_of_the_other() -> None:
    for document in (written(), *(load(path)["AzureAssignedIdentity"] for path in CASES)):
        api = MemoryApi()
        stored = api.store.create(ASSIGNED, cleared(document, "default"))
        existing = ExistingAssignment(read(ASSIGNED_IDENTITIES, stored))
        async with api.client("test") as client:
            ours = documents.status_operations(existing, "Created", {MESSAGE_ANNOTATION: "why"})
            await client.patch_json(ASSIGNED_IDENTITIES, "default", NAME, ours)
            after = api.store.get(ASSIGNED, NAME, "default")
            assert after["status"]["status"] == "Created"
            upgraded = with_current_names(ASSIGNED_IDENTITIES, after) or after
            api.store.replace(ASSIGNED, upgraded)
            await client.patch_json(ASSIGNED_IDENTITIES, "default", NAME, REPLACE)
        after = api.store.get(ASSIGNED, NAME, "default")
        assert (after["spec"], after["status"]["status"]) == (upgraded["spec"], "Assigned")
        assert read(ASSIGNED_IDENTITIES, after).spec == read(ASSIGNED_IDENTITIES, stored).spec


async def test_the_go_implementations_definitions_drop_no_field_that_mic_and_users_write() -> None:
    """Strict: a field that these definitions do not name is refused."""
    api = MemoryApi(FOLDER)

    async def create(kind: Kind[Any], document: Mapping[str, Any]) -> dict[str, Any]:
        body, strict = msgspec.json.encode(document), {"fieldValidation": "Strict"}
        stored: dict[str, Any] = json.loads(
            await client.request("POST", kind.path("default"), body=body, params=strict)
        )
        return stored

    async with api.client("test") as client:
        document = cleared(written(), "default")
        stored = await create(ASSIGNED_IDENTITIES, document)
        assert (stored["spec"], stored["status"]) == (document["spec"], document["status"])
        assert stored["metadata"]["annotations"] == document["metadata"]["annotations"]
        federated = {"type": 3, "clientID": "c", "tenantID": "contoso.com"}
        for kind, spec in ((IDENTITIES, federated), (BINDINGS, {"azureIdentity": "a", "selector": "a", "weight": 7})):
            given = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": "a"}, "spec": spec}
            assert (await create(kind, given))["spec"] == spec
        unknown = {**document, "metadata": {"name": "unknown"}, "spec": {"other": 1}}
        with pytest.raises(ApiError, match="unknown field"):
            await create(ASSIGNED_IDENTITIES, unknown)


def test_the_go_implementation_finds_each_field_where_it_reads_it() -> None:
    spec = written()["spec"]
    looked_for = {
        ("azureIdentityRef", "metadata", "name"): "demo",
        ("azureIdentityRef", "metadata", "namespace"): "default",
        # It assigns again what is not a copy of this version.
        ("azureIdentityRef", "metadata", "resourceVersion"): "7",
        ("azureBindingRef", "metadata", "resourceVersion"): "7",
        ("azureIdentityRef", "metadata", "annotations", "aadpodidentity.k8s.io/Behavior"): "namespaced",
        ("azureIdentityRef", "spec", "type"): 0,
        ("azureIdentityRef", "spec", "clientID"): "client-demo",
        ("azureIdentityRef", "spec", "resourceID"): identity_id("demo"),
        ("azureBindingRef", "metadata", "name"): "demo-binding",
        ("azureBindingRef", "spec", "azureIdentity"): "demo",
        ("azureBindingRef", "spec", "selector"): "demo",
        ("pod",): "web",
        ("podNamespace",): "default",
        ("nodename",): "n0",
    }
    for path, value in looked_for.items():
        field: Any = spec
        for part in path:
            field = field[part]
        assert field == value
    assert written()["status"] == {"status": "Created", "availableReplicas": 1}
    assert written()["metadata"]["labels"] == {"nodename": "n0"}
    assert written()["metadata"]["finalizers"] == ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"]
    assert written()["metadata"]["annotations"] == {
        "aadpodidentity.k8s.io/pod-uid": "uid-default-web",
        "aadpodidentity.k8s.io/attached-by": "mic",
    }


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
def test_every_field_gets_its_present_name_and_other_content_is_unchanged(
    kind: Kind[Any], old: dict[str, Any], present: dict[str, Any]
) -> None:
    status = {"status": "Assigned", "availableReplicas": 1, "Other": 1}
    assert with_current_names(kind, document(old, status=status, Extra=[1])) == document(
        present, status=status, Extra=[1]
    )
    assert with_current_names(kind, document(present, status=status, Extra=[1])) is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("spec", [{}, None, "no map", {"unknown": 1}])
def test_an_object_without_old_field_names_is_unchanged(kind: Kind[Any], spec: Any) -> None:
    assert with_current_names(kind, document(spec)) is None


def test_if_both_names_exist_the_present_one_is_kept() -> None:
    made = with_current_names(BINDINGS, document({"Selector": "old", "selector": "present"}))
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
    spec = {spell(names[number % len(names)]): value for number, spell, value in spelled}
    stored = document(spec)
    made = with_current_names(kind, stored)
    assert (made is None) == (set(spec) <= set(names))
    if made is not None:
        meant = decode_object(kind, json.dumps(stored).encode(), old_field_names=True)
        assert decode_object(kind, json.dumps(made).encode()) == meant
        assert with_current_names(kind, made) is None
        copy = {"azureIdentityRef" if kind is IDENTITIES else "azureBindingRef": {"spec": spec, "metadata": {}}}
        before = decode_object(ASSIGNED_IDENTITIES, json.dumps(document(copy)).encode(), old_field_names=True)
        embedding = with_current_names(ASSIGNED_IDENTITIES, document(copy))
        assert decode_object(ASSIGNED_IDENTITIES, json.dumps(embedding).encode()) == before


def described(spec: dict[str, Any], kind: Kind[Any] = IDENTITIES) -> bytes:
    named = [{"group": kind.group, "version": kind.version, "kind": kind.name}]
    schema = {"type": "object", "properties": {"spec": spec}, "x-kubernetes-group-version-kind": named}
    return msgspec.json.encode({"components": {"schemas": {"a": schema, "AzureIdentityList": {"type": "object"}}}})


def test_a_schema_that_drops_unknown_fields_drops_old_field_names() -> None:
    assert kinds_that_drop_old_names(described({"type": "object", "properties": {"clientID": {"type": "string"}}})) == [
        IDENTITIES
    ]
    assert kinds_that_drop_old_names(described({"type": "object"}, BINDINGS)) == [BINDINGS]
    assert kinds_that_drop_old_names(described({"type": "object", "x-kubernetes-preserve-unknown-fields": True})) == []


@pytest.mark.parametrize(
    "schema", [b"", b"[]", b"{}", b'{"components":{"schemas":{"a":{"properties":null}}}}', b"\xff"]
)
def test_an_unreadable_schema_counts_as_keeping_them(schema: bytes) -> None:
    assert kinds_that_drop_old_names(schema) == []
