"""Objects of the Go implementation are in sync for MIC, and the Go implementation can read those of MIC."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from mic.decisions import documents
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from mic.startup.spellings import KINDS, respelled
from podidentity.kube.decoding import decode_object
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, MESSAGE_ANNOTATION, Kind
from tests.conftest import NewPlane, apply_definitions
from tests.support.mic import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, identity_id, pod
from tests.testplane.up import Plane

FOLDER = Path(__file__).parent / "reference"
CASES = sorted(FOLDER.glob("v*.yaml"))
BY_NAME = {kind.name: kind for kind in KINDS}

Documents = Mapping[str, dict[str, Any]]


def read(kind: Kind[Any], document: Mapping[str, Any]) -> Any:
    """Decode *document* as MIC does until its type upgrade is recorded."""
    return decode_object(kind, msgspec.json.encode(document), old_field_names=True)


async def taken_over(world: MicWorld, case: Documents) -> list[str]:
    """Let MIC find the objects of the case. Return the steps of its first pass."""
    world.host(VM, "demo")
    world.client.old_field_names = True
    world.add(pod(), read(IDENTITIES, case["AzureIdentity"]), read(BINDINGS, case["AzureIdentityBinding"]))
    world.api.store.create(ASSIGNED, cleared(case["AzureAssignedIdentity"], "default"))
    stored = world.api.store.get(ASSIGNED, "web-default-demo", "default")
    world.view.assigned.upserted(None, read(ASSIGNED_IDENTITIES, stored))
    return await world.steps()


def load(path: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(path.read_text()))


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
        upgraded = respelled(BY_NAME[name], case[name])
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


def written() -> dict[str, Any]:
    """An object as MIC creates it, with all that it may hold."""
    bound, given = binding(), identity(namespaced=True)
    bound = msgspec.structs.replace(bound, metadata=msgspec.structs.replace(bound.metadata, resource_version="7"))
    given = msgspec.structs.replace(given, metadata=msgspec.structs.replace(given.metadata, resource_version="7"))
    desired = DesiredAssignment(pod(), bound, given, None, namespaced=True)
    return documents.new_document(desired, "web-default-demo", "Created", "mic")


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
        found: Any = spec
        for part in path:
            found = found[part]
        assert found == value
    assert written()["status"] == {"status": "Created", "availableReplicas": 1}
    assert written()["metadata"]["labels"] == {"nodename": "n0"}
    assert written()["metadata"]["finalizers"] == ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"]
    assert written()["metadata"]["annotations"] == {
        "aadpodidentity.k8s.io/pod-uid": "uid-default-web",
        "aadpodidentity.k8s.io/attached-by": "mic",
    }


PATCH = "application/json-patch+json"
REPLACE = [{"op": "replace", "path": "/status/status", "value": "Assigned"}]


def cleared(document: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """*document* as it can be created: without what only a server sets."""
    ours = ("name", "labels", "annotations", "finalizers")
    metadata = {name: value for name, value in document["metadata"].items() if name in ours}
    return {**document, "metadata": {**metadata, "namespace": namespace}}


@pytest.mark.plane
def test_the_go_implementations_status_patch_works_on_our_objects(plane: Plane) -> None:
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": "both-ways"}})
    path = ASSIGNED_IDENTITIES.path("both-ways")
    before = plane.api("POST", path, cleared(written(), "both-ways"))
    after = plane.api("PATCH", f"{path}/web-default-demo", REPLACE, content_type=PATCH)
    assert after["status"] == {"status": "Assigned", "availableReplicas": 1}
    assert after["spec"] == before["spec"] == written()["spec"]


@pytest.mark.plane
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_our_status_patch_works_on_the_go_implementations_objects(plane: Plane, case: Path) -> None:
    namespace = case.stem.replace(".", "-")
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    path = ASSIGNED_IDENTITIES.path(namespace)
    document = load(case)["AzureAssignedIdentity"]
    stored = plane.api("POST", path, cleared(document, namespace))
    existing = ExistingAssignment(read(ASSIGNED_IDENTITIES, stored))
    operations = documents.status_operations(existing, "Created", {MESSAGE_ANNOTATION: "why"})
    after = plane.api("PATCH", f"{path}/web-default-demo", operations, content_type=PATCH)
    assert after["status"]["status"] == "Created"
    upgraded = respelled(ASSIGNED_IDENTITIES, after)
    if upgraded is not None:
        upgraded = plane.api("PUT", f"{path}/web-default-demo", upgraded)
        after = plane.api("PATCH", f"{path}/web-default-demo", REPLACE, content_type=PATCH)
        assert after["status"]["status"] == "Assigned"
    assert after["spec"]["azureIdentityRef"]["spec"]["clientID"] == "client-demo"
    assert read(ASSIGNED_IDENTITIES, after).spec == read(ASSIGNED_IDENTITIES, stored).spec


@pytest.mark.plane
def test_the_go_implementations_definitions_drop_no_field_that_we_write(new_plane: NewPlane) -> None:
    plane = new_plane(controllers="none")
    apply_definitions(plane, FOLDER / "crds.yaml")
    document = cleared(written(), "default")
    # Strict: a field that these definitions do not name is refused.
    stored = plane.api("POST", f"{ASSIGNED_IDENTITIES.path('default')}?fieldValidation=Strict", document)
    assert stored["spec"] == document["spec"]
    assert stored["status"] == document["status"]
    assert stored["metadata"]["annotations"] == document["metadata"]["annotations"]
    unknown = {**document, "metadata": {**document["metadata"], "name": "unknown"}, "spec": {"other": 1}}
    with pytest.raises(RuntimeError, match="unknown field"):
        plane.api("POST", f"{ASSIGNED_IDENTITIES.path('default')}?fieldValidation=Strict", unknown)
