"""Objects that the chart renders for `federated`, errors for wrong values, and the consistency of the parts."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.helm_cluster import arguments_of
from tools.chart.rendering import GOLDEN, HELMS, Object, RenderError, render

ON = {"enabled": True, "namespaces": [{"name": "shop"}]}
PUBLIC = "api://AzureADTokenExchange"
CLUSTER = "--api-versions=v1/Pod"
"""The kinds that a cluster reports and helm alone does not know."""
POLICIES = "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"


def made(
    tmp_path: Path, federated: Any, *, helm: str = "helm", options: Iterable[str] = (), **where: Any
) -> list[Object]:
    """Return the objects that are rendered with these values of `federated`."""
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"federated": federated}))
    return render(values, helm=helm, options=list(options), **where)


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind and "federated" in each["metadata"]["name"]]


@pytest.mark.parametrize("helm", HELMS)
def test_federation_is_off_unless_enabled_with_any_other_value(tmp_path: Path, helm: str) -> None:
    assert made(tmp_path, {"namespaces": [{"name": "shop"}], "audience": "api://other"}, helm=helm) == render(helm=helm)
    assert made(tmp_path, None, helm=helm) == render(helm=helm)


REFUSED: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "without rbac": (ON, ("--set=rbac.enabled=false",), r"rbac\.enabled is false: set it to true"),
    "without namespaces": ({"enabled": True}, (), r"federated\.namespaces is empty: list the namespaces"),
    "with an empty key": ({"enabled": True, "namespaces": None}, (), r"federated\.namespaces is empty"),
    "an older Kubernetes": (ON, ("--kube-version=v1.29.14",), r"this is Kubernetes v1\.29\.14: use 1\.30 or newer"),
    "a cluster without policies": (ON, (CLUSTER,), r"no admissionregistration\.k8s\.io/v1 ValidatingAdmissionPolicy"),
    "a namespace twice": (
        {"enabled": True, "namespaces": [{"name": "shop"}, {"name": "shop", "serviceAccounts": ["web"]}]},
        (),
        r"federated\.namespaces lists shop twice: write one entry",
    ),
    "no service account where some are to be listed": (
        {"enabled": True, "namespaces": [{"name": "shop", "serviceAccounts": []}]},
        (),
        "the serviceAccounts of shop in federated.namespaces are an empty list: name",
    ),
    "a list of service accounts that was commented out": (
        {"enabled": True, "namespaces": [{"name": "shop", "serviceAccounts": None}]},
        (),
        "the serviceAccounts of shop in federated.namespaces are an empty list: name",
    ),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("federated", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_unsafe_values_are_rejected_with_the_value_to_set(
    tmp_path: Path, helm: str, federated: Any, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RenderError, match=message):
        made(tmp_path, federated, helm=helm, options=options)
    made(tmp_path, {**federated, "enabled": False}, helm=helm, options=options)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    "options", [("--kube-version=v1.30.0",), ("--kube-version=v1.30.9-gke.1",), (CLUSTER, POLICIES)]
)
def test_a_kubernetes_version_with_policies_is_accepted(tmp_path: Path, helm: str, options: tuple[str, ...]) -> None:
    assert of_kind(made(tmp_path, ON, helm=helm, options=options), "ValidatingAdmissionPolicy")


def one(**entry: Any) -> dict[str, Any]:
    return {"enabled": True, "namespaces": [entry]}


# Values that the schema rejects, with the path in its error, and a similar value that it accepts.
MISSPELT: dict[str, tuple[Any, str, Any]] = {
    "an unknown value": ({**ON, "audiences": [PUBLIC]}, "audiences", {**ON, "audience": PUBLIC}),
    "an unknown key of a namespace": (
        one(name="shop", serviceAccount="web"),
        "serviceAccount",
        one(name="shop", serviceAccounts=["web"]),
    ),
    "a namespace without a name": (one(serviceAccounts=["web"]), "name", one(name="a", serviceAccounts=["web"])),
    "a namespace as text": ({"enabled": True, "namespaces": ["shop"]}, "/federated/namespaces/0", one(name="shop")),
    "a wildcard": (one(name="*"), "/federated/namespaces/0/name", one(name="a")),
    "a name in capitals": (one(name="Shop"), "/federated/namespaces/0/name", one(name="shop-1")),
    "a name with a dot": (one(name="shop.eu"), "/federated/namespaces/0/name", one(name="shop-eu")),
    "a name too long": (one(name="a" * 64), "/federated/namespaces/0/name", one(name="a" * 63)),
    "a wildcard for service accounts": (
        one(name="shop", serviceAccounts=["*"]),
        "/serviceAccounts/0",
        one(name="shop", serviceAccounts=["web.eu"]),
    ),
    "a service account's name too long": (
        one(name="shop", serviceAccounts=["a" * 254]),
        "/serviceAccounts/0",
        one(name="shop", serviceAccounts=["a" * 253]),
    ),
    "a service account twice": (
        one(name="shop", serviceAccounts=["web", "web"]),
        "/serviceAccounts",
        one(name="shop", serviceAccounts=["web", "api"]),
    ),
    "an audience that an API server could have": (
        {**ON, "audience": "https://kubernetes.default.svc"},
        "/federated/audience",
        {**ON, "audience": "api://AzureADTokenExchangeUSGov"},
    ),
    "an audience that ends the expression": (
        {**ON, "audience": 'api://a"] || ["b" == "b'},
        "/federated/audience",
        {**ON, "audience": "api://a.b-c/d_e"},
    ),
    "a switch as text": ({**ON, "enabled": "false"}, "/federated/enabled", ON),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("wrong", "where", "right"), MISSPELT.values(), ids=MISSPELT)
def test_misspelled_values_are_rejected_and_similar_correct_ones_are_not(
    tmp_path: Path, helm: str, wrong: Any, where: str, right: Any
) -> None:
    with pytest.raises(RenderError, match=where):
        made(tmp_path, wrong, helm=helm)
    assert made(tmp_path, right, helm=helm)


@pytest.mark.parametrize("audience", [PUBLIC, "api://AzureADTokenExchangeUSGov", "api://AzureADTokenExchangeChina"])
def test_nmi_requests_the_audience_that_the_policy_allows(tmp_path: Path, audience: str) -> None:
    objects = made(tmp_path, {**ON, "audience": audience})
    given = arguments_of(objects, "nmi")
    assert {"--federated-identities=true", f"--federated-audience={audience}"} <= set(given)
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    assert f'object.spec.audiences == ["{audience}"]' in policy["spec"]["validations"][1]["expression"]


@pytest.mark.parametrize("options", [(), ("--set=nameOverride=other",), ("--set=operationMode=managed",)])
def test_roles_and_policy_concern_nmis_service_account(tmp_path: Path, options: tuple[str, ...]) -> None:
    objects = made(tmp_path, ON, options=options)
    (account,) = {
        each["spec"]["template"]["spec"]["serviceAccountName"]
        for each in objects
        if each["kind"] == "DaemonSet" and each["metadata"]["name"].endswith("-nmi")
    }
    (binding,) = of_kind(objects, "RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "podid"}]
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f'request.userInfo.username == "system:serviceaccount:podid:{account}"'


def test_the_policy_applies_to_every_namespace_and_refuses_requests_that_it_cannot_evaluate(tmp_path: Path) -> None:
    objects = made(tmp_path, ON)
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    (binding,) = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert set(policy["spec"]["matchConstraints"]) == {"resourceRules"}
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_each_message_of_the_policy_is_different_and_names_an_action(tmp_path: Path) -> None:
    (policy,) = of_kind(made(tmp_path, ON), "ValidatingAdmissionPolicy")
    messages = [each["message"] for each in policy["spec"]["validations"]]
    assert len(set(messages)) == len(messages)
    for message in messages:
        assert "find the client" in message or "set that value" in message, message


@pytest.mark.parametrize(
    ("release", "options"), [("r" * 53, ()), ("r", (f"--set=fullnameOverride={'f' * 52}-fff",)), ("123", ())]
)
def test_the_objects_have_valid_names(tmp_path: Path, release: str, options: tuple[str, ...]) -> None:
    objects = made(tmp_path, ON, options=options, release=release)
    found = [each["metadata"]["name"] for kind in ("Role", "RoleBinding") for each in of_kind(objects, kind)]
    (name,) = {*found, *(each["metadata"]["name"] for each in of_kind(objects, "ValidatingAdmissionPolicy"))}
    assert len(name) <= 63
    assert name.endswith("-federated")
    assert "--" not in name


@pytest.mark.parametrize("helm", HELMS)
def test_names_of_digits_remain_strings(tmp_path: Path, helm: str) -> None:
    objects = made(
        tmp_path, one(name="456", serviceAccounts=["1e3", "0777"]), helm=helm, release="123", namespace="789"
    )
    (role,) = of_kind(objects, "Role")
    assert role["metadata"]["namespace"] == "456"
    assert role["rules"][0]["resourceNames"] == ["1e3", "0777"]
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    assert policy["spec"]["variables"][0]["expression"] == '{"456":["1e3","0777"]}'
    assert '"system:serviceaccount:789:aad-pod-identity-nmi"' in policy["spec"]["matchConditions"][0]["expression"]


def test_only_the_listed_namespaces_have_a_role() -> None:
    objects = render(GOLDEN / "federated.values.yaml")
    rules = {each["metadata"]["namespace"]: each["rules"] for each in of_kind(objects, "Role")}
    right = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}
    assert rules == {"shop": [{**right, "resourceNames": ["web", "worker"]}], "reports": [right]}
    assert {each["metadata"]["namespace"] for each in of_kind(objects, "RoleBinding")} == set(rules)
