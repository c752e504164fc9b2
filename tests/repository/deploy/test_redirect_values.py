"""Cilium's policies select NMI's pods only, and exempt no other pod. test_rendered_values.py has other values."""

from typing import Any

import pytest

from podidentity.resources import BINDING_LABEL
from tools.chart.rendering import Object, render


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render(options=["--set=nmi.redirect.backend=cilium,nmi.handover.enabled=false"])


def template_labels(each: Object) -> dict[str, str]:
    """Return the labels of the pod, or of the pods that a workload creates."""
    template = each if each["kind"] == "Pod" else (each.get("spec") or {}).get("template") or {}
    return dict(template.get("metadata", {}).get("labels", {}))


def test_cilium_redirects_to_the_pods_of_nmi_only(objects: list[Object]) -> None:
    redirects = [each for each in objects if each["kind"] == "CiliumLocalRedirectPolicy"]
    assert [each["spec"].get("skipRedirectFromBackend") for each in redirects] == [True, None], "NMI's own requests"
    for redirect in redirects:
        assert BINDING_LABEL not in str(redirect), "nothing of Cilium selects by a binding"
        labels = redirect["spec"]["redirectBackend"]["localEndpointSelector"]["matchLabels"]
        selected = [each["metadata"]["name"] for each in objects if labels.items() <= template_labels(each).items()]
        assert selected == ["aad-pod-identity-nmi"]


@pytest.mark.parametrize(
    ("namespace", "labels", "denied"),
    [
        ("podid", {"app.kubernetes.io/component": "nmi"}, False),
        ("podid", {"app.kubernetes.io/component": "mic"}, True),
        ("podid", {}, True),
        ("tenant", {}, True),
        ("tenant", {"app.kubernetes.io/component": "nmi"}, True),
    ],
)
def test_the_policy_exempts_nmi_and_no_pod_that_a_tenant_labels_like_it(
    objects: list[Object], namespace: str, labels: dict[str, str], denied: bool
) -> None:
    own = {"k8s:io.kubernetes.pod.namespace": namespace} | {f"k8s:{name}": text for name, text in labels.items()}

    def selects(selector: dict[str, Any]) -> bool:
        assert selector.keys() == {"matchExpressions"}
        return all(
            (own.get(each["key"]) in each["values"]) is (each["operator"] == "In")
            for each in selector["matchExpressions"]
        )

    (policy,) = (each for each in objects if each["kind"] == "CiliumClusterwideNetworkPolicy")
    assert any(selects(each["endpointSelector"]) for each in policy["specs"]) is denied
