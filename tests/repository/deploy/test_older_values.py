"""Values of the Go implementation's chart, of older charts, empty keys and unusual texts: rendered, or rejected with an
action.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repository.deploy.test_rendered_values import field
from tests.support.chart_objects import HELMS, arguments_of
from tests.support.go_implementation_chart import VALUES
from tools.chart.rendering import CHART, in_order, render

OURS: Mapping[str, Any] = {"image.repository": "ours", "mic.tag": "", "nmi.tag": ""}
"""Values that a user of the Go implementation's chart has to change."""
DIFFERENT: Mapping[str, Any] = {
    "image.repository": "",
    "mic.resources.limits.cpu": "1",
    "nmi.resources.limits.cpu": "1",
    "mic.tag": "",
    "mic.priorityClassName": "system-cluster-critical",
    "nmi.tag": "",
    "nmi.priorityClassName": "system-node-critical",
    "nmi.tolerations": [{"operator": "Exists"}],
    "nmi.updateStrategy": {},
}
"""Intentional differences from the defaults of the Go implementation, which the README lists."""
ODD = """it's "odd": {{ .Release.Name }} #, [x] \\ $(HOME) ü"""
PATH = "/etc/odd #1/'a' \"b\""


def reference(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Go implementation's values.yaml with these values, by path."""
    values: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    for name, value in changed.items():
        *above, last = name.split(".")
        inner = values
        for part in above:
            inner = inner[part]
        inner[last] = value
    return values


def leaves(part: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of each part of the values that is no mapping with content."""
    if isinstance(part, dict) and part:
        for name, value in part.items():
            yield from leaves(value, (*above, name))
    else:
        yield above, part


def test_the_defaults_are_those_of_the_go_implementation_but_for_the_listed_differences() -> None:
    ours = yaml.safe_load((CHART / "values.yaml").read_text())
    readme = (CHART / "README.md").read_text().partition("## Upgrading")[0]
    for path, value in leaves(reference(DIFFERENT)):
        current = ours
        for part in path:
            current = current[part]
        assert current == value, path
    for name in DIFFERENT:
        assert reference({name: DIFFERENT[name]}) != reference({})
        assert f"`{name.removesuffix('.limits.cpu')}`" in readme


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return the chart as `helm upgrade --reuse-values` uses it: without the defaults of its own values.yaml."""
    copied = tmp_path / "bare"
    shutil.copytree(CHART, copied)
    (copied / "values.yaml").write_text("")
    return copied


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    "options",
    [
        (),
        (
            "--set=nmi.failClosed=true,serviceMonitor.enabled=true,prometheusRule.enabled=true,namespace.create=true",
            "--set=grafanaDashboard.enabled=true,networkPolicy.enabled=true,test.selector=a,test.clientID=b",
            "--set=test.subscriptionID=c,test.resourceGroup=d",
            "--set=federated.enabled=true,federated.namespaces[0].name=e",
        ),
    ],
    ids=["defaults", "everything new"],
)
def test_an_upgrade_with_the_values_of_the_go_implementation_equals_an_installation_with_them(
    bare: Path, helm: str, options: tuple[str, ...]
) -> None:
    values = reference(OURS)
    assert render(given=values, helm=helm, chart=bare, options=options) == render(
        given=values, helm=helm, options=options
    )


WITH_FLAGS = ("mic.leaderElection", "mic.startupTaint", "nmi.enableScaleFeatures", "nmi.metadataHeaderRequired")
EMPTY = (
    *("adminsecret", "azureIdentities", "caBundle", "caBundle.key", "crds", "customCloud", "customCloud.environment"),
    *("federated", "grafanaDashboard", "mic", "mic.affinity", "mic.customCloud", "namespace", "networkPolicy"),
    *("nmi", "nmi.affinity", "operationMode", "podIdentityExceptions", "podMonitor", "prometheusRule", "rbac"),
    *("serviceMonitor", "test", *WITH_FLAGS),
)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_key_is_its_default(name: str, helm: str) -> None:
    above, _, last = name.rpartition(".")
    values = f"{above}: {{{last}: }}" if above else f"{last}:"
    options = [] if name == "nmi" else ["--set=nmi.failClosed=true"]
    objects = render(given=values, helm=helm, options=options)
    assert "nil>" not in yaml.safe_dump_all(objects)
    if name in WITH_FLAGS:
        plain = render(helm=helm, options=options)
        for program in ("mic", "nmi"):
            assert arguments_of(objects, program) == arguments_of(plain, program)


def test_the_defaults_for_missing_values_are_those_of_values_yaml() -> None:
    text = (CHART / "templates" / "_values.tpl").read_text()
    missing = text.partition('"aad-pod-identity.missing" -}}')[2].partition("{{- end")[0]
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    default_values = dict(leaves(defaults))
    for path, value in leaves(yaml.safe_load(missing)):
        assert value == {} or default_values[path] == value, path


@pytest.mark.parametrize("helm", HELMS)
def test_flags_and_fields_contain_exactly_the_text_of_the_value(helm: str) -> None:
    """The text is no number, comment or YAML."""
    values: dict[str, Any] = {
        "customUserAgent": ODD,
        "mic": {
            "cloudConfig": PATH,
            "extraArgs": [f"--arm-api-version={ODD}"],
            "leaderElection": {"instance": ODD, "name": "a, b", "namespace": "yes"},
            "podAnnotations": {"note": ODD},
        },
        "nmi": {"kubeletConfig": PATH, "extraArgs": [f"--log-format={ODD}"]},
        "azureIdentities": {
            "1e3": {
                "type": 0,
                "clientID": "0x10",
                "resourceID": ODD,
                "namespace": "0777",
                "binding": {"name": "null", "selector": ODD},
            }
        },
        "podIdentityExceptions": {"no": {"podLabels": {"a": "true", "b: c": ODD}}},
    }
    objects = render(given=values, helm=helm)
    mic, nmi = arguments_of(objects, "mic"), arguments_of(objects, "nmi")
    assert {f"--cloudconfig={PATH}", f"--custom-user-agent={ODD}", f"--leader-election-instance={ODD}"} <= set(mic)
    assert mic[-1] == f"--arm-api-version={ODD}"
    assert f"--kubelet-config={PATH}" in nmi
    assert nmi[-1] == f"--log-format={ODD}"
    by_name = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}
    assert by_name["AzureIdentity", "1e3"]["metadata"]["namespace"] == "0777"
    assert by_name["AzureIdentity", "1e3"]["spec"] == {"type": 0, "clientID": "0x10", "resourceID": ODD}
    assert by_name["AzureIdentityBinding", "null"]["spec"] == {"azureIdentity": "1e3", "selector": ODD}
    assert by_name["AzurePodIdentityException", "no"]["spec"]["podLabels"] == {"a": "true", "b: c": ODD}
    assert field(objects, "Role/mic-lock rules.1.resourceNames") == ["a, b"]
    assert field(objects, "DaemonSet/nmi spec.template.spec.volumes.kubelet-config.hostPath.path") == PATH
    assert field(objects, "Deployment/mic spec.template.spec.volumes.k8s-azure-file.hostPath.path") == PATH


@pytest.mark.parametrize("helm", HELMS)
def test_names_of_digits_remain_strings(helm: str) -> None:
    everything = [
        "--set=nmi.failClosed=true,namespace.create=true,podMonitor.enabled=true,serviceMonitor.enabled=true",
        "--set=networkPolicy.enabled=true,rbac.createUserFacingClusterRoles=true,test.selector=a,test.clientID=b",
        "--set=test.subscriptionID=c,test.resourceGroup=d,mic.podDisruptionBudget.minAvailable=1",
        "--set-string=nameOverride=10",
    ]
    federated = {"enabled": True, "namespaces": [{"name": "456", "serviceAccounts": ["1e3", "0777"]}]}
    objects = render(given={"federated": federated}, helm=helm, release="123", namespace="456", options=everything)
    assert len(in_order(objects)) > 30
    for manifest in objects:
        meta = manifest["metadata"]
        texts = [meta["name"], meta.get("namespace", ""), *meta.get("labels", {}).values()]
        texts += meta.get("annotations", {}).values()
        assert all(isinstance(text, str) for text in texts), meta
        assert "456" in json.dumps(manifest) or meta.get("namespace") in (None, "default", "kube-system"), meta
    (role,) = (
        manifest
        for manifest in objects
        if manifest["kind"] == "Role" and manifest["metadata"]["name"].endswith("-federated")
    )
    assert (role["metadata"]["namespace"], role["rules"][0]["resourceNames"]) == ("456", ["1e3", "0777"])
    (policy,) = (manifest["spec"] for manifest in objects if manifest["kind"] == "ValidatingAdmissionPolicy")
    assert policy["variables"][0]["expression"] == '{"456":["1e3","0777"]}'
    assert '"system:serviceaccount:456:10-nmi"' in policy["matchConditions"][0]["expression"]
