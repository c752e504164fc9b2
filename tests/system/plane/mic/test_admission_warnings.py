"""`deploy/admission/warnings.yaml` on the real API server: kubectl prints a warning for each mistake, and no
object is rejected.

Each mistake has a correct counterpart. The policy's warning about a resource id equals MIC's.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mic.decisions.assignments import misconfigured
from podidentity.kube.decoding import decode_object
from podidentity.resources import BINDINGS, EXCHANGE_ANNOTATION, GROUP, IDENTITIES, Kind
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.support.objects import identity_id
from tests.support.testplane import up
from tests.support.waiting import until_sync

pytestmark = pytest.mark.plane

NAMES = (f"told-{number}" for number in itertools.count())
ID = identity_id("demo")
FEDERATED = {"type": 3, "clientID": "c", "tenantID": "t"}
PRINCIPAL = {"type": 1, "clientID": "c", "tenantID": "t", "clientPassword": {"name": "n", "namespace": "default"}}


class Kubectl:
    def __init__(self, plane: up.Plane) -> None:
        self._commands = Commands(plane.kubeconfig)
        self.newest = ""
        """The object that was created last."""

    def __call__(self, *arguments: str, document: Any = None) -> str:
        """Return the standard error; the command must succeed."""
        done = self._commands.done("kubectl", *arguments, stdin=json.dumps(document))
        assert done.returncode == 0, done.stderr
        return done.stderr

    def warned(self, kind: Kind[Any], spec: Any, annotations: dict[str, str] | None = None) -> list[str]:
        """Return the warnings for an object with this spec, which is then created."""
        name = self.newest = next(NAMES)
        metadata = {"name": name, "annotations": annotations or {}}
        document = {"apiVersion": f"{GROUP}/v1", "kind": kind.name, "metadata": metadata, "spec": spec}
        output = self("create", "-f", "-", document=document)
        return [line.partition("': ")[2] for line in output.splitlines() if "Warning:" in line]


@pytest.fixture(scope="module")
def kubectl(plane: up.Plane) -> Iterator[Kubectl]:
    """kubectl, after both policies are in effect; they are deleted at the end."""
    run = Kubectl(plane)
    policies = str(ROOT / "deploy" / "admission" / "warnings.yaml")
    run("apply", "-f", policies)
    until_sync(lambda: run.warned(IDENTITIES, {}) and run.warned(BINDINGS, {}), "the policies are in force")
    yield run
    run("delete", "-f", policies)


@pytest.mark.parametrize(
    ("kind", "wrong", "right", "expected"),
    [
        (IDENTITIES, {"type": 0, "resourceID": "/x"}, {"type": 0, "resourceID": ID}, "spec.resourceID is not of"),
        (IDENTITIES, {"ResourceID": ID}, {"resourceID": ID.upper()}, "spec.resourceID is not of"),
        (IDENTITIES, {"resourceID": "/x", "ResourceID": ID}, {"resourceID": ID, "ResourceID": "/x"}, "spec.resourceID"),
        (IDENTITIES, {"type": 4}, {**PRINCIPAL, "type": 2}, "spec.type is not 0"),
        (IDENTITIES, {**FEDERATED, "type": 5}, FEDERATED, "spec.type is not 0"),
        (IDENTITIES, {**FEDERATED, "clientID": " "}, FEDERATED, "spec.clientID is"),
        (IDENTITIES, {"type": 3, "clientID": "c"}, FEDERATED, "spec.tenantID is empty"),
        (IDENTITIES, {**FEDERATED, "resourceID": ID}, {**FEDERATED, "resourceID": ""}, "spec.resourceID means nothing"),
        (
            IDENTITIES,
            {**FEDERATED, "clientPassword": {"name": "n"}},
            {**FEDERATED, "clientPassword": {}},
            "spec.clientPassword means nothing",
        ),
        (
            IDENTITIES,
            {**FEDERATED, "auxiliaryTenantIDs": ["t"]},
            {**FEDERATED, "auxiliaryTenantIDs": []},
            "spec.auxiliaryTenantIDs is set on type 3",
        ),
        (IDENTITIES, {**PRINCIPAL, "clientID": " "}, PRINCIPAL, "spec.clientID is empty"),
        (IDENTITIES, {**PRINCIPAL, "tenantID": ""}, PRINCIPAL, "spec.tenantID is empty"),
        (IDENTITIES, {**PRINCIPAL, "clientPassword": {}}, PRINCIPAL, "spec.clientPassword names no Secret"),
        (
            IDENTITIES,
            {**PRINCIPAL, "clientPassword": {"name": "n", "namespace": "other"}},
            {**PRINCIPAL, "clientPassword": {"name": "n"}},
            "spec.clientPassword names a Secret of another namespace",
        ),
        (BINDINGS, {"selector": "s"}, {"azureIdentity": "i", "selector": "s"}, "spec.azureIdentity is empty"),
        (BINDINGS, {"azureIdentity": "i", "Selector": "s"}, {"azureIdentity": "i", "selector": "s"}, "spec.selector"),
    ],
)
def test_a_mistake_causes_a_warning_and_a_similar_correct_object_does_not(
    kubectl: Kubectl, kind: Kind[Any], wrong: dict[str, Any], right: dict[str, Any], expected: str
) -> None:
    (warning,) = kubectl.warned(kind, wrong)
    assert warning.startswith(expected)
    assert kubectl.warned(kind, right) == []


@pytest.mark.parametrize(
    "resource_id",
    [
        ID,
        ID.lower(),
        f"{ID}/",
        f" {ID}",
        f"{ID}\n",
        ID.lstrip("/"),
        ID.replace("/rg/", "//"),
        ID.replace("/rg/", "/r g/"),
        ID.replace("ManagedIdentity", "Compute"),
        ID.replace(".ManagedIdentity", "xManagedIdentity"),
        f"{ID}/more",
        f"{ID}{'a' * 2048}",
        ID.replace("/rg/", "/../"),
        ID.replace("/rg/", "/..a/"),
        ID.replace("/rg/", "/a./"),
        ID.replace("/rg/", f"/{'a' * 90}/"),
        ID.replace("/rg/", f"/{'a' * 91}/"),
        ID.replace("/rg/", "/K\N{LATIN CAPITAL LETTER O WITH DIAERESIS}_(a).1/"),
        ID.replace("/rg/", "/\N{KELVIN SIGN}/"),
        ID.replace("/rg/", "/a\N{SUPERSCRIPT TWO}/"),
        ID.replace("/rg/", "/a%2f/"),
        ID.replace("subscriptions", "\N{LATIN SMALL LETTER LONG S}ubscriptions"),
        f"{ID}.",
        f"{ID}_-",
        f"{ID}'",
    ],
)
def test_the_policy_and_mic_validate_resource_ids_equally(kubectl: Kubectl, resource_id: str) -> None:
    spec = {"type": 0, "resourceID": resource_id}
    mic_message = misconfigured(decode_object(IDENTITIES, json.dumps({"spec": spec}).encode()))
    assert bool(kubectl.warned(IDENTITIES, spec)) == bool(mic_message)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (IDENTITIES, {"ResourceID": 5}),
        (IDENTITIES, {"Type": "0", "ResourceID": ID}),
        (IDENTITIES, {"type": 3, "resourceID": "", "AuxiliaryTenantIDs": 5, "ClientPassword": []}),
        (IDENTITIES, {**PRINCIPAL, "clientPassword": {"name": "n", "other": 5}}),
        (IDENTITIES, {f"field{number}": "x" for number in range(2000)}),
        (BINDINGS, {"AzureIdentity": {}, "Selector": 5}),
    ],
)
def test_an_object_of_an_unexpected_shape_is_accepted(kubectl: Kubectl, kind: Kind[Any], spec: dict[str, Any]) -> None:
    kubectl.warned(kind, spec)


@pytest.mark.parametrize("type_", range(-1, 6))
def test_the_policy_and_mic_know_the_same_types(kubectl: Kubectl, type_: int) -> None:
    spec = {"type": type_, "resourceID": ID}
    mic_message = misconfigured(decode_object(IDENTITIES, json.dumps({"spec": spec}).encode()))
    warnings = kubectl.warned(IDENTITIES, spec)
    assert any(warning.startswith("spec.type is not") for warning in warnings) == mic_message.startswith(
        f"spec.type {type_} is"
    )


def test_a_mistake_in_an_update_causes_a_warning_too(kubectl: Kubectl) -> None:
    assert kubectl.warned(BINDINGS, {"azureIdentity": "i", "selector": "s"}) == []

    output = kubectl("patch", BINDINGS.plural, kubectl.newest, "--type=merge", "-p", '{"spec":{"selector":""}}')
    assert "spec.selector is empty" in output


@pytest.mark.parametrize("right", ["direct", "identityBindings"])
def test_an_unknown_exchange_is_reported(kubectl: Kubectl, right: str) -> None:
    (warning,) = kubectl.warned(IDENTITIES, FEDERATED, {EXCHANGE_ANNOTATION: right.upper()})
    assert "neither direct nor identityBindings" in warning
    assert kubectl.warned(IDENTITIES, FEDERATED, {EXCHANGE_ANNOTATION: right}) == []
    assert kubectl.warned(IDENTITIES, FEDERATED, {"other": "x"}) == []
