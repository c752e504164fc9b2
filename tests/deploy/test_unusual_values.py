"""The text of a value or a name is rendered as exactly that text: not as a number, a comment, or YAML."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.helm_cluster import arguments_of
from tests.deploy.helms import HELMS
from tools.chart.rendering import in_order, render

ODD = """it's "odd": {{ .Release.Name }} #, [x] \\ $(HOME) ü"""
PATH = "/etc/odd #1/'a' \"b\""


@pytest.mark.parametrize("helm", HELMS)
def test_flags_and_fields_contain_the_value(helm: str) -> None:
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
    for flag in (f"--cloudconfig={PATH}", f"--custom-user-agent={ODD}", f"--leader-election-instance={ODD}"):
        assert flag in mic
    assert mic[-1] == f"--arm-api-version={ODD}"
    assert f"--kubelet-config={PATH}" in nmi
    assert nmi[-1] == f"--log-format={ODD}"
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    identity, binding = by_name["AzureIdentity", "1e3"], by_name["AzureIdentityBinding", "null"]
    assert identity["metadata"]["namespace"] == "0777"
    assert identity["spec"] == {"type": 0, "clientID": "0x10", "resourceID": ODD}
    assert binding["spec"] == {"azureIdentity": "1e3", "selector": ODD}
    assert by_name["AzurePodIdentityException", "no"]["spec"]["podLabels"] == {"a": "true", "b: c": ODD}
    assert by_name["Role", "aad-pod-identity-mic-lock"]["rules"][1]["resourceNames"] == ["a, b"]
    assert list(host_paths(objects)).count(PATH) == 2


def host_paths(objects: list[dict[str, Any]]) -> Iterator[str]:
    for each in objects:
        if each["kind"] in ("DaemonSet", "Deployment"):
            for volume in each["spec"]["template"]["spec"]["volumes"]:
                if "hostPath" in volume:
                    yield volume["hostPath"]["path"]


@pytest.mark.parametrize("helm", HELMS)
def test_names_of_digits_remain_strings(helm: str) -> None:
    everything = [
        "--set=nmi.failClosed=true,namespace.create=true,podMonitor.enabled=true,serviceMonitor.enabled=true",
        "--set=networkPolicy.enabled=true,rbac.createUserFacingClusterRoles=true,test.selector=a,test.clientID=b",
        "--set=test.subscriptionID=c,test.resourceGroup=d,mic.podDisruptionBudget.minAvailable=1",
        "--set-string=nameOverride=10",
    ]
    objects = render(helm=helm, release="123", namespace="456", options=everything)
    assert len(in_order(objects)) > 30
    for each in objects:
        meta = each["metadata"]
        texts = [meta["name"], meta.get("namespace", ""), *meta.get("labels", {}).values()]
        texts += meta.get("annotations", {}).values()
        assert all(isinstance(text, str) for text in texts), meta
        assert "456" in json.dumps(each) or meta.get("namespace") in (None, "default", "kube-system"), meta
