"""The manifest of the canary: restricted, without a token, and bound to end."""

from typing import Any

import msgspec
import pytest

from podidctl.verify import canary
from podidctl.verify.objects import CANARY_LABELS, NmiTemplate
from podidctl.verify.pod import manifest
from podidentity.resources import BINDING_LABEL
from tools.chart.rendering import render

pytestmark = pytest.mark.tools

OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "nmi", "uid": "u-1", "controller": True}


def template() -> NmiTemplate:
    """Return a pod of the chart's DaemonSet."""
    (daemon,) = (each for each in render() if each["kind"] == "DaemonSet" and each["metadata"]["name"].endswith("nmi"))
    spec = {**daemon["spec"]["template"]["spec"], "imagePullSecrets": [{"name": "registry"}]}
    return msgspec.convert({"metadata": {"namespace": "podid", "ownerReferences": [OWNER]}, "spec": spec}, NmiTemplate)


def canary_pod(namespace: str = "podid") -> dict[str, Any]:
    nmi = template()
    return manifest(
        name="podidctl-verify-1",
        namespace=namespace,
        node="node-a",
        image=nmi.spec.containers[0].image,
        request_id="verify-id",
        template=nmi,
        deadline_seconds=90,
    )


def test_it_names_its_node_and_has_the_tolerations_of_nmi() -> None:
    spec = canary_pod()["spec"]
    assert spec["nodeName"] == "node-a"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["containers"][0]["image"] == template().spec.containers[0].image


def test_it_has_no_token_and_no_permission() -> None:
    spec = canary_pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "hostNetwork" not in spec
    assert "volumes" not in spec


def test_no_binding_and_no_selector_of_the_chart_selects_it() -> None:
    labels = canary_pod()["metadata"]["labels"]
    assert BINDING_LABEL not in labels
    for each in render():
        selector = each.get("spec", {}).get("selector") or {}
        wanted = selector.get("matchLabels", selector)
        assert not wanted or not wanted.items() <= labels.items(), each["metadata"]["name"]
    assert labels == CANARY_LABELS


def test_it_ends_in_any_case() -> None:
    pod = canary_pod()
    assert pod["spec"]["activeDeadlineSeconds"] == 90
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"][0]["resources"]["limits"].keys() == {"cpu", "memory"}
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("DaemonSet", "u-1")
    assert "controller" not in owner


def test_in_another_namespace_it_has_no_owner() -> None:
    assert "ownerReferences" not in canary_pod("canaries")["metadata"]


@pytest.mark.parametrize("word", ["169.254.169.254", "80", "verify-id"])
def test_it_requests_the_metadata_address(word: str) -> None:
    container = canary_pod()["spec"]["containers"][0]
    assert word in container["args"]
    assert container["command"][:3] == ["python3", "-I", "-c"]
    assert canary.PATH in container["command"][3]
    assert container["terminationMessagePath"] == "/dev/termination-log"
