"""deploy/crds on the real API server: fields that storage must keep, and a status without a subresource."""

from typing import Any

import pytest

from tests.testplane import up

pytestmark = pytest.mark.plane
GROUP = "/apis/aadpodidentity.k8s.io/v1/namespaces/default"


def made(plane: up.Plane, plural: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    document = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind, "metadata": {"name": name}, **content}
    stored: dict[str, Any] = plane.api("POST", f"{GROUP}/{plural}", document)
    return stored


def test_fields_in_the_spelling_before_1_6_survive_storage(plane: up.Plane) -> None:
    spec = {"type": 1, "ClientID": "a", "ClientPassword": {"Name": "s"}, "ResourceID": "/b", "TenantID": "c"}
    assert made(plane, "azureidentities", "AzureIdentity", "crd-old", spec=spec)["spec"] == spec
    spec = {"AzureIdentity": "a", "Selector": "b", "Weight": 1}
    assert made(plane, "azureidentitybindings", "AzureIdentityBinding", "crd-old", spec=spec)["spec"] == spec
    spec = {"PodLabels": {"a": "b"}}
    stored = made(plane, "azurepodidentityexceptions", "AzurePodIdentityException", "crd-old", spec=spec)
    assert stored["spec"] == spec


def test_embedded_objects_keep_old_field_names_and_status_is_patched_on_the_object_itself(plane: up.Plane) -> None:
    def embedded(kind: str, **spec: str) -> dict[str, Any]:
        metadata = {"name": "x", "namespace": "default", "annotations": {"a": "b"}}
        return {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}

    spec = {
        "azureIdentityRef": embedded("AzureIdentity", ClientID="a", clientID="b"),
        "azureBindingRef": embedded("AzureIdentityBinding", Selector="c"),
        "pod": "p",
        "podNamespace": "n",
        "nodename": "m",
    }
    status = {"status": "Created", "availableReplicas": 0}
    stored = made(plane, "azureassignedidentities", "AzureAssignedIdentity", "crd-new", spec=spec, status=status)
    assert stored["spec"] == spec
    assert stored["status"] == status
    operations = [{"op": "replace", "path": "/status/status", "value": "Assigned"}]
    patched = plane.api(
        "PATCH", f"{GROUP}/azureassignedidentities/crd-new", operations, content_type="application/json-patch+json"
    )
    assert patched["status"]["status"] == "Assigned"


def test_invalid_values_are_accepted_for_existing_objects(plane: up.Plane) -> None:
    spec = {"type": 7, "resourceID": "nonsense", "clientID": ""}
    assert made(plane, "azureidentities", "AzureIdentity", "crd-odd", spec=spec)["spec"] == spec
