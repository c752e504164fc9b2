"""Objects that the chart renders for AKS identity bindings, and the values that it refuses."""

from collections.abc import Iterable
from typing import Any

import pytest

from tests.deploy.helm_cluster import arguments_of
from tests.deploy.helms import HELMS
from tests.deploy.test_federated_values import ON, PUBLIC, made
from tools.chart.rendering import Object

BINDING = "api://AKSIdentityBinding"
US = "api://AzureADTokenExchangeUSGov"
BINDS = {**ON, "exchange": "identityBindings"}
LABEL, ANNOTATION = "azure.workload.identity/use", "azure.workload.identity/use-identity-binding"
OWN_ACCOUNT = "aad-pod-identity-nmi"
CLIENT = "d3a0c11e-0000-4000-8000-000000000001"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PROXY = {"tokenProxy": "https://proxy.example/prefix", "caData": PEM}


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
