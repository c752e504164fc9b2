"""Objects that the chart renders for `federated`, also with AKS identity bindings, and the consistency of the parts.

test_refused_values.py has the values that the chart refuses.
"""

from collections.abc import Iterable
from typing import Any

import pytest

from tests.repository.deploy.helm_cluster import arguments_of
from tests.repository.deploy.helms import HELMS
from tools.chart.rendering import Object, RenderError, render

ON = {"enabled": True, "namespaces": [{"name": "shop"}]}
PUBLIC = "api://AzureADTokenExchange"
BINDING = "api://AKSIdentityBinding"
US = "api://AzureADTokenExchangeUSGov"
BINDS = {**ON, "exchange": "identityBindings"}
LABEL, ANNOTATION = "azure.workload.identity/use", "azure.workload.identity/use-identity-binding"
OWN_ACCOUNT = "aad-pod-identity-nmi"
CLIENT = "d3a0c11e-0000-4000-8000-000000000001"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PROXY = {"tokenProxy": "https://proxy.example/prefix", "caData": PEM}
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
def test_a_cluster_without_policies_is_refused_and_one_with_them_is_not(helm: str, option: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        made(ON, helm=helm, options=[option])
    assert made({**ON, "enabled": False}, helm=helm, options=[option])
    for options in (("--kube-version=v1.30.0",), ("--kube-version=v1.30.9-gke.1",), (CLUSTER, POLICIES)):
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


def template_of(objects: Iterable[Object]) -> Any:
    """Return the pod template of NMI."""
    (daemon_set,) = (
        each for each in objects if each["kind"] == "DaemonSet" and each["metadata"]["name"].endswith("-nmi")
    )
    return daemon_set["spec"]["template"]


def variables_of(objects: Iterable[Object]) -> dict[str, str]:
    (container,) = template_of(objects)["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if each["name"].startswith("AZURE_KUBERNETES_")}


def audiences_of(objects: Iterable[Object]) -> str:
    (policy,) = (each for each in objects if each["kind"] == "ValidatingAdmissionPolicy")
    return str(policy["spec"]["validations"][1]["expression"])


@pytest.mark.parametrize("helm", HELMS)
def test_nmis_pods_have_what_aks_s_webhook_looks_for(helm: str) -> None:
    objects = made(BINDS, helm=helm)
    metadata = template_of(objects)["metadata"]
    assert metadata["labels"][LABEL] == "true"
    assert metadata["annotations"][ANNOTATION] == "true"
    assert variables_of(objects) == {}
    assert "--federated-exchange=identityBindings" in arguments_of(objects, "nmi")


@pytest.mark.parametrize("federated", [ON, {**BINDS, "enabled": False}, {**BINDS, "identityBindings": PROXY}])
def test_otherwise_the_webhook_changes_nothing_in_nmis_pods(federated: dict[str, Any]) -> None:
    metadata = template_of(made(federated))["metadata"]
    assert LABEL not in metadata["labels"]
    assert ANNOTATION not in metadata.get("annotations", {})


def test_the_users_own_label_does_not_appear_twice() -> None:
    options = [f"--set-string=nmi.podLabels.{LABEL.replace('.', chr(92) + '.')}=true", "--set=nmi.podLabels.other=x"]
    labels = template_of(made(BINDS, options=options))["metadata"]["labels"]
    assert (labels[LABEL], labels["other"]) == ("true", "x")


def test_explicit_values_reach_nmis_environment() -> None:
    explicit = {**PROXY, "serverName": "name.ests.aks"}
    assert variables_of(made({**BINDS, "identityBindings": explicit})) == {
        "AZURE_KUBERNETES_TOKEN_PROXY": "https://proxy.example/prefix",
        "AZURE_KUBERNETES_SNI_NAME": "name.ests.aks",
        "AZURE_KUBERNETES_CA_DATA": PEM,
    }
    file = {"tokenProxy": "https://10.0.0.1:443", "caFile": "/ca.crt"}
    assert variables_of(made({**BINDS, "identityBindings": file}))["AZURE_KUBERNETES_CA_FILE"] == "/ca.crt"


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({}, f'object.spec.audiences == ["{PUBLIC}"]'),
        ({"audience": US}, f'object.spec.audiences == ["{US}"]'),
        ({"exchange": "identityBindings"}, f'object.spec.audiences == ["{BINDING}"]'),
        (
            {"exchangeAnnotation": True},
            f'["{PUBLIC}","{BINDING}"].exists(audience, object.spec.audiences == [audience])',
        ),
    ],
)
def test_the_policy_allows_exactly_the_audience_of_the_exchange(values: dict[str, Any], allowed: str) -> None:
    objects = made({**ON, **values})
    assert audiences_of(objects) == f"has(object.spec.audiences) && {allowed}"
    given = arguments_of(objects, "nmi")
    assert {"--federated-identities=true", f"--federated-audience={values.get('audience', PUBLIC)}"} <= set(given)
    assert ("--federated-exchange-annotation=true" in given) is values.get("exchangeAnnotation", False)


@pytest.mark.parametrize("helm", HELMS)
def test_without_identity_bindings_their_values_have_no_effect(helm: str) -> None:
    permissions = [{"clientID": CLIENT, "subjects": [{"namespace": "shop"}]}]
    direct = {**ON, "exchange": "direct", "identityBindings": {"permissions": permissions}}
    assert made(direct, helm=helm) == made(ON, helm=helm)
