"""`deploy/crds` on the real API server: the columns of kubectl, and the stored fields.

test_equals_the_real_server.py shows that the sandbox's server makes the same tables of definitions.
"""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from podidentity.resources import GROUP
from tests.support.kubectl_and_helm import Commands
from tests.support.testplane import up

Kubectl = Callable[..., str]
NAMESPACES = (f"columns-{number}" for number in itertools.count())
WHY = "AuthorizationFailed: the client may not assign 'demo'"


@pytest.fixture
def kubectl(plane: up.Plane) -> Kubectl:
    """The real kubectl in a separate namespace."""
    commands, namespace = Commands(plane.kubeconfig), next(NAMESPACES)
    commands.kubectl("create", "namespace", namespace)
    return lambda *words, stdin=None: commands.kubectl(f"--namespace={namespace}", *words, stdin=stdin)


def create(kubectl: Kubectl, *documents: dict[str, Any]) -> None:
    for document in documents:
        kubectl("create", "-f", "-", stdin=json.dumps(document))


def document(kind: str, name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name}, "spec": spec, **more}


def cells(shown: str) -> list[list[str]]:
    """The columns of each line, which two or more blanks part."""
    return [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]


@pytest.mark.parametrize(
    ("kind", "spec", "header", "row"),
    [
        ("AzureIdentity", {"type": 0, "resourceID": "r", "clientID": "c1"}, ["TYPE", "CLIENTID"], ["0", "c1"]),
        (
            "AzureIdentityBinding",
            {"azureIdentity": "demo", "selector": "web"},
            ["AZUREIDENTITY", "SELECTOR"],
            ["demo", "web"],
        ),
        ("AzurePodIdentityException", {"podLabels": {"app": "x"}}, ["PODLABELS"], ['{"app":"x"}']),
    ],
)
def test_kubectl_get_shows_the_main_fields(
    kubectl: Kubectl, kind: str, spec: dict[str, Any], header: list[str], row: list[str]
) -> None:
    create(kubectl, document(kind, "demo", spec))
    assert [row_cells[:-1] for row_cells in cells(kubectl("get", kind))] == [["NAME", *header], ["demo", *row]]


def test_wide_columns_show_why_an_identity_is_not_assigned_yet(kubectl: Kubectl) -> None:
    spec = {"pod": "web", "podNamespace": "ns", "nodename": "n0"}
    waiting = document("AzureAssignedIdentity", "a-waiting", spec, status={"status": "Created"})
    waiting["metadata"]["annotations"] = {f"{GROUP}/message": WHY, f"{GROUP}/attached-by": "mic"}
    create(kubectl, waiting, document("AzureAssignedIdentity", "b-settled", spec, status={"status": "Assigned"}))
    header, first, second = cells(kubectl("get", "azureassignedidentity"))
    assert header == ["NAME", "STATUS", "POD", "POD NAMESPACE", "NODE", "AGE"]
    assert first[:-1] == ["a-waiting", "Created", "web", "ns", "n0"]
    assert second[:-1] == ["b-settled", "Assigned", "web", "ns", "n0"]
    header, first, second = cells(kubectl("get", "azureassignedidentity", "-o", "wide"))
    assert header[-2:] == ["AGE", "MESSAGE"]
    assert first[-1] == WHY
    assert len(second) == len(header) - 1


OLD: dict[str, dict[str, Any]] = {
    "AzureIdentity": {"type": 1, "ClientID": "c", "clientPassword": {"Name": "n"}, "ADEndpoint": "e"},
    "AzureIdentityBinding": {"azureidentity": "i", "Selector": "s", "Weight": 1},
    "AzurePodIdentityException": {"PodLabels": {"app": "x"}},
}


def test_old_field_names_survive_storage_in_each_field(kubectl: Kubectl) -> None:
    for kind, spec in OLD.items():
        create(kubectl, document(kind, "old", spec))
        assert json.loads(kubectl("get", kind, "old", "-o", "json"))["spec"] == spec
    identity, binding = (document(kind, "old", OLD[kind]) for kind in ("AzureIdentity", "AzureIdentityBinding"))
    places: dict[str, dict[str, Any]] = {
        "old-fields": {"azureIdentityRef": identity, "azureBindingRef": binding, "Pod": "web", "podnamespace": "ns"},
        "old-names": {"AzureIdentityRef": identity, "azurebindingref": binding},
    }
    for name, place in places.items():
        create(kubectl, document("AzureAssignedIdentity", name, place, status={"Status": "Created"}))
        stored = json.loads(kubectl("get", "azureassignedidentity", name, "-o", "json"))
        assert (stored["spec"], stored["status"]) == (place, {"Status": "Created"})
