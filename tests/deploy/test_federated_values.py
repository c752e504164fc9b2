"""Objects that the chart renders for `federated`, errors for wrong values, and the consistency of the parts."""

from collections.abc import Iterable
from typing import Any

import pytest

from tests.deploy.helms import HELMS
from tools.chart.rendering import Object, RenderError, render

ON = {"enabled": True, "namespaces": [{"name": "shop"}]}
PUBLIC = "api://AzureADTokenExchange"
CLUSTER = "--api-versions=v1/Pod"
"""The kinds that a cluster reports and helm alone does not know."""
POLICIES = "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"


def made(federated: Any, **how: Any) -> list[Object]:
    """Return the objects that are rendered with these values of `federated`."""
    return render(given={"federated": federated}, **how)


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind and "federated" in each["metadata"]["name"]]


@pytest.mark.parametrize("helm", HELMS)
def test_federation_is_off_unless_enabled_with_any_other_value(helm: str) -> None:
    assert made({"namespaces": [{"name": "shop"}], "audience": "api://other"}, helm=helm) == render(helm=helm)
    assert made(None, helm=helm) == render(helm=helm)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--kube-version=v1.29.14", r"this is Kubernetes v1\.29\.14: use 1\.30 or newer"),
        (CLUSTER, r"no admissionregistration\.k8s\.io/v1 ValidatingAdmissionPolicy"),
    ],
    ids=["an older Kubernetes", "a cluster without policies"],
)
def test_a_cluster_without_policies_is_refused(helm: str, option: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        made(ON, helm=helm, options=[option])
    assert made({**ON, "enabled": False}, helm=helm, options=[option])


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    "options", [("--kube-version=v1.30.0",), ("--kube-version=v1.30.9-gke.1",), (CLUSTER, POLICIES)]
)
def test_a_kubernetes_version_with_policies_is_accepted(helm: str, options: tuple[str, ...]) -> None:
    assert of_kind(made(ON, helm=helm, options=options), "ValidatingAdmissionPolicy")


@pytest.mark.parametrize("options", [(), ("--set=nameOverride=other",), ("--set=operationMode=managed",)])
def test_roles_and_policy_concern_nmis_service_account(options: tuple[str, ...]) -> None:
    objects = made(ON, options=options)
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


def test_the_policy_applies_to_every_namespace_and_refuses_requests_that_it_cannot_evaluate() -> None:
    objects = made(ON)
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    (binding,) = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert set(policy["spec"]["matchConstraints"]) == {"resourceRules"}
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_each_message_of_the_policy_is_different_and_names_an_action() -> None:
    (policy,) = of_kind(made(ON), "ValidatingAdmissionPolicy")
    messages = [each["message"] for each in policy["spec"]["validations"]]
    assert len(set(messages)) == len(messages)
    for message in messages:
        assert "find the client" in message or "set that value" in message, message


@pytest.mark.parametrize(
    ("release", "options"), [("r" * 53, ()), ("r", (f"--set=fullnameOverride={'f' * 52}-fff",)), ("123", ())]
)
def test_the_objects_have_valid_names(release: str, options: tuple[str, ...]) -> None:
    objects = made(ON, options=options, release=release)
    found = [each["metadata"]["name"] for kind in ("Role", "RoleBinding") for each in of_kind(objects, kind)]
    (name,) = {*found, *(each["metadata"]["name"] for each in of_kind(objects, "ValidatingAdmissionPolicy"))}
    assert len(name) <= 63
    assert name.endswith("-federated")
    assert "--" not in name


@pytest.mark.parametrize("helm", HELMS)
def test_names_of_digits_remain_strings(helm: str) -> None:
    federated = {"enabled": True, "namespaces": [{"name": "456", "serviceAccounts": ["1e3", "0777"]}]}
    objects = made(federated, helm=helm, release="123", namespace="789")
    (role,) = of_kind(objects, "Role")
    assert role["metadata"]["namespace"] == "456"
    assert role["rules"][0]["resourceNames"] == ["1e3", "0777"]
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    assert policy["spec"]["variables"][0]["expression"] == '{"456":["1e3","0777"]}'
    assert '"system:serviceaccount:789:aad-pod-identity-nmi"' in policy["spec"]["matchConditions"][0]["expression"]
