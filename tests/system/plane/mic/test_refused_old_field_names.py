"""`deploy/admission/old-field-names.yaml` on the real API server."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from mic.startup.object_upgrade import with_current_names
from podidentity.old_field_names import fields_by_name
from podidentity.resources import BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, Kind
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

pytestmark = pytest.mark.plane

POLICY = ROOT / "deploy" / "admission" / "old-field-names.yaml"
NAMES = (f"spelled-{number}" for number in itertools.count())
MERGE = "application/merge-patch+json"


def refusal(call: Callable[[], Any]) -> str:
    """Return why the API server refuses the request; empty if it accepts it."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


def put(plane: Plane, kind: Kind[Any], spec: Any, **metadata: Any) -> str:
    """Create an object, and return why it is refused."""
    meta = {"name": next(NAMES), **metadata}
    document = {"apiVersion": f"{GROUP}/v1", "kind": kind.name, "metadata": meta, "spec": spec}
    return refusal(lambda: plane.api("POST", kind.path("default"), document))


def begin(plane: Plane) -> None:
    Commands(plane.kubeconfig).kubectl("apply", "-f", str(POLICY))
    until_sync(lambda: put(plane, IDENTITIES, {"ResourceID": "r"}), "the policy is not in force")


def end(plane: Plane) -> None:
    Commands(plane.kubeconfig).kubectl("delete", "-f", str(POLICY))
    until_sync(lambda: not put(plane, IDENTITIES, {"ResourceID": "r"}), "the policy is still in force")


@pytest.fixture(scope="module")
def guarded(plane: Plane) -> Iterator[Plane]:
    """The API server with the policy in effect."""
    begin(plane)
    yield plane
    end(plane)


PRINCIPAL = {"type": 1, "clientID": "c", "tenantID": "t"}


@pytest.mark.parametrize(
    ("kind", "wrong", "right", "named"),
    [
        (IDENTITIES, {"ResourceID": "r", "ClientID": "c"}, {"resourceID": "r", "clientID": "c"}, "spec.ResourceID"),
        (IDENTITIES, {"resourceid": "r"}, {"resourceIDs": "r"}, "spec.resourceid"),
        (IDENTITIES, {"RESOURCEID": "r"}, {"resourceID": ""}, "spec.RESOURCEID"),
        (IDENTITIES, {"resourceID": "r", "ResourceID": "x"}, {"resourceID": "r", "x": "x"}, "spec.ResourceID"),
        (IDENTITIES, {"Type": 1}, {"type": 1}, "spec.Type"),
        (
            IDENTITIES,
            {**PRINCIPAL, "clientPassword": {"Name": "n"}},
            {**PRINCIPAL, "clientPassword": {"name": "n", "namespace": "default", "other": "x"}},
            "spec.clientPassword.Name",
        ),
        (IDENTITIES, {"ClientPassword": {"name": "n"}}, {"metadata": {"Name": "n", "ClientID": "c"}}, "ClientPassword"),
        (IDENTITIES, {"AuxiliaryTenantIDs": ["t"]}, {"auxiliaryTenantIDs": None}, "spec.AuxiliaryTenantIDs"),
        (BINDINGS, {"AzureIdentity": "i", "selector": "s"}, {"azureIdentity": "i", "selector": "s"}, "AzureIdentity"),
        (BINDINGS, {"azureIdentity": "i", "Selector": "s"}, {"azureIdentity": "i", "ClientID": "c"}, "spec.Selector"),
        (EXCEPTIONS, {"PodLabels": {"a": "b"}}, {"podLabels": {"PodLabels": "x", "Replicas": "1"}}, "spec.PodLabels"),
    ],
)
def test_an_old_field_name_is_refused_by_name_and_a_similar_correct_object_is_not(
    guarded: Plane, kind: Kind[Any], wrong: dict[str, Any], right: dict[str, Any], named: str
) -> None:
    output = put(guarded, kind, wrong)
    assert ": 422 " in output
    assert named in output.partition("; the fields")[0]
    assert put(guarded, kind, right) == ""


@pytest.mark.parametrize("kind", [IDENTITIES, BINDINGS, EXCEPTIONS], ids=lambda kind: kind.plural)
def test_an_object_without_a_spec_is_accepted(guarded: Plane, kind: Kind[Any]) -> None:
    document = {"apiVersion": f"{GROUP}/v1", "kind": kind.name, "metadata": {"name": next(NAMES)}}
    assert refusal(lambda: guarded.api("POST", kind.path("default"), document)) == ""


def test_a_number_of_fields_that_cannot_be_evaluated_is_refused(guarded: Plane) -> None:
    """Such an object must not be a way around the policy."""
    many = {f"field{number}": "" for number in range(10_000)}
    assert "cost limit exceeded" in put(guarded, IDENTITIES, {**many, "ResourceID": "r"})
    assert put(guarded, IDENTITIES, {name: "" for name, _ in zip(many, range(100), strict=False)}) == ""


def test_an_update_may_not_add_an_old_field_name(guarded: Plane) -> None:
    name = next(NAMES)
    assert put(guarded, IDENTITIES, {"type": 0, "resourceID": "r"}, name=name) == ""
    path = IDENTITIES.path("default", name)
    patch = {"spec": {"ResourceID": "x"}}
    assert "spec.ResourceID" in refusal(lambda: guarded.api("PATCH", path, patch, MERGE))
    assert refusal(lambda: guarded.api("PATCH", path, {"spec": {"resourceID": "x"}}, MERGE)) == ""


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (IDENTITIES, {"type": 0, "ResourceID": "r", "ClientID": "c"}),
        (BINDINGS, {"AzureIdentity": "i", "Selector": "s"}),
        (EXCEPTIONS, {"PodLabels": {"app": "x"}}),
    ],
)
def test_an_older_object_can_be_labelled_rewritten_and_deleted(
    guarded: Plane, kind: Kind[Any], spec: dict[str, Any]
) -> None:
    end(guarded)
    names = (next(NAMES), next(NAMES))
    assert [put(guarded, kind, spec, name=name, finalizers=["example.com/test"]) for name in names] == ["", ""]
    begin(guarded)
    path, other_path = (kind.path("default", name) for name in names)
    assert refusal(lambda: guarded.api("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE)) == ""
    assert "not read" in refusal(lambda: guarded.api("PATCH", path, {"spec": {"unknown": "x"}}, MERGE))
    # As MIC's type upgrade does it.
    rewritten = with_current_names(kind, guarded.api("GET", path))
    assert rewritten is not None
    assert refusal(lambda: guarded.api("PUT", path, rewritten)) == ""
    # The end of an object that is not rewritten.
    guarded.api("DELETE", other_path)
    assert refusal(lambda: guarded.api("PATCH", other_path, {"metadata": {"finalizers": None}}, MERGE)) == ""
    assert ": 404 " in refusal(lambda: guarded.api("GET", other_path))


def test_the_policy_knows_the_fields_that_the_programs_read() -> None:
    policy, _ = yaml.safe_load_all(POLICY.read_text())
    variables = {variable["name"]: variable["expression"] for variable in policy["spec"]["variables"]}
    written = json.loads(variables["fields"].partition("}[")[0].replace("'", '"') + "}")
    for kind in (IDENTITIES, BINDINGS, EXCEPTIONS):
        (spec,) = [field for name, field in fields_by_name(kind.shape).items() if name == "spec"]
        assert spec.shape is not None
        fields = {field.present for field in fields_by_name(spec.shape).values()}
        assert set(written[kind.plural]) == fields | {"metadata", "replicas"}
