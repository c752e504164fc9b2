"""The real API server accepts the patches of MIC and the Go implementation for each other's objects."""

from pathlib import Path

import pytest

from mic.decisions import documents
from mic.decisions.assignments import ExistingAssignment
from mic.startup.object_upgrade import with_current_names
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, MESSAGE_ANNOTATION
from tests.conftest import NewPlane, apply_definitions
from tests.support.mic.go_objects import CASES, FOLDER, cleared, load, read, written
from tests.support.testplane.up import Plane

PATCH = "application/json-patch+json"
REPLACE = [{"op": "replace", "path": "/status/status", "value": "Assigned"}]


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
    upgraded = with_current_names(ASSIGNED_IDENTITIES, after)
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
    federated = {"type": 3, "clientID": "c", "tenantID": "contoso.com"}
    for kind, spec in ((IDENTITIES, federated), (BINDINGS, {"azureIdentity": "a", "selector": "a", "weight": 7})):
        given = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": "a"}, "spec": spec}
        assert plane.api("POST", f"{kind.path('default')}?fieldValidation=Strict", given)["spec"] == spec
    unknown = {**document, "metadata": {**document["metadata"], "name": "unknown"}, "spec": {"other": 1}}
    with pytest.raises(RuntimeError, match="unknown field"):
        plane.api("POST", f"{ASSIGNED_IDENTITIES.path('default')}?fieldValidation=Strict", unknown)
