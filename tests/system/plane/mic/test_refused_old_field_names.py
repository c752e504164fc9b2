"""`deploy/admission/old-field-names.yaml` on the real API server, and an operator's own policy on `spec.resourceID`.

The own policy does not see a field with an old name, so no program may read it.
"""

import asyncio
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from mic.startup.spellings import respelled
from podidentity.old_field_names import spellings
from podidentity.resources import BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, Kind
from tests.conftest import NewPlane
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.real_server import add_node, assigned, create, in_place_of_the_emulator, run_pod
from tests.support.objects import identity_id, vm_id
from tests.support.testplane import up
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

pytestmark = pytest.mark.plane

POLICY = ROOT / "deploy" / "admission" / "old-field-names.yaml"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
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


def kubectl(plane: Plane, *arguments: str) -> None:
    command = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}", *arguments, "-f", str(POLICY)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def begin(plane: Plane) -> None:
    kubectl(plane, "apply")
    until_sync(lambda: put(plane, IDENTITIES, {"ResourceID": "r"}), "the policy is not in force")


def end(plane: Plane) -> None:
    kubectl(plane, "delete")
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
    said = put(guarded, kind, wrong)
    assert ": 422 " in said
    assert named in said.partition("; the fields")[0]
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
    path, other = (kind.path("default", name) for name in names)
    assert refusal(lambda: guarded.api("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE)) == ""
    assert "not read" in refusal(lambda: guarded.api("PATCH", path, {"spec": {"unknown": "x"}}, MERGE))
    # As MIC's type upgrade does it.
    rewritten = respelled(kind, guarded.api("GET", path))
    assert rewritten is not None
    assert refusal(lambda: guarded.api("PUT", path, rewritten)) == ""
    # The end of an object that is not rewritten.
    guarded.api("DELETE", other)
    assert refusal(lambda: guarded.api("PATCH", other, {"metadata": {"finalizers": None}}, MERGE)) == ""
    assert ": 404 " in refusal(lambda: guarded.api("GET", other))


def test_the_policy_knows_the_fields_that_the_programs_read() -> None:
    policy, _ = yaml.safe_load_all(POLICY.read_text())
    variables = {each["name"]: each["expression"] for each in policy["spec"]["variables"]}
    written = json.loads(variables["fields"].partition("}[")[0].replace("'", '"') + "}")
    for kind in (IDENTITIES, BINDINGS, EXCEPTIONS):
        (spec,) = [each for name, each in spellings(kind.shape).items() if name == "spec"]
        assert spec.shape is not None
        known = {field.present for field in spellings(spec.shape).values()}
        assert set(written[kind.plural]) == known | {"metadata", "replicas"}


def own_policy(plane: Plane) -> None:
    """Create an operator's policy: no AzureIdentity may name the identity `victim`."""
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [GROUP],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["azureidentities"],
                }
            ]
        },
        "validations": [
            {"expression": "!has(object.spec.resourceID) || !object.spec.resourceID.lowerAscii().endsWith('/victim')"}
        ],
    }
    name = "no-victim.example.com"
    plane.api("POST", f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    binding = {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}
    plane.api("POST", f"{ADMISSION}/validatingadmissionpolicybindings", binding)
    until_sync(
        lambda: put(plane, IDENTITIES, {"type": 0, "resourceID": identity_id("victim")}),
        "the operator's policy is not in force",
    )


async def test_a_field_that_an_own_policy_does_not_see_assigns_nothing(
    cloud: EmulatedCloud, new_plane: NewPlane
) -> None:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        own_policy(plane)
        for each in plane.api("GET", IDENTITIES.path())["items"]:  # of the wait for the policy
            plane.api("DELETE", IDENTITIES.path("default", each["metadata"]["name"]))

    real = await in_place_of_the_emulator(cloud, new_plane, prepare, identities=("demo", "victim"))
    mic = await cloud.mic()  # which records the upgrade: there is nothing to rewrite
    spec = {"type": 0, "ResourceID": identity_id("victim"), "ClientID": "client-victim"}
    await asyncio.to_thread(create, real, IDENTITIES, "disguised", spec)  # stored, and not seen by the policy
    both = {"type": 0, "resourceID": identity_id("demo"), "ResourceID": identity_id("victim")}
    await asyncio.to_thread(create, real, IDENTITIES, "both", {**both, "clientID": "client-demo"})
    for name in ("disguised", "both"):
        await asyncio.to_thread(create, real, BINDINGS, name, {"azureIdentity": name, "selector": "demo"})
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await assigned(real, web="Assigned")
    found = await asyncio.to_thread(real.api, "GET", "/apis/aadpodidentity.k8s.io/v1/azureassignedidentities")
    assert [each["metadata"]["name"] for each in found["items"]] == ["web-default-both"]
    assert cloud.on(vm_id("n0")) == {"demo"}
    assert "azureidentities default/disguised" in mic.read_log()
    assert await mic.stop() == 0
