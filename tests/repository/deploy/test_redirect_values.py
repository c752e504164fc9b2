"""Cilium's policies select NMI's pods only, and exempt no other pod. test_rendered_values.py has other values."""

from typing import Any

import pytest

from podidentity.resources import BINDING_LABEL
from tools.chart.rendering import Object, render


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render(options=["--set=nmi.redirect.backend=cilium,nmi.handover.enabled=false"])


def template_labels(manifest: Object) -> dict[str, str]:
    """Return the labels of the pod, or of the pods that a workload creates."""
    template = manifest if manifest["kind"] == "Pod" else (manifest.get("spec") or {}).get("template") or {}
    return dict(template.get("metadata", {}).get("labels", {}))


def test_cilium_redirects_to_the_pods_of_nmi_only(objects: list[Object]) -> None:
    redirects = [manifest for manifest in objects if manifest["kind"] == "CiliumLocalRedirectPolicy"]
    assert [redirect["spec"].get("skipRedirectFromBackend") for redirect in redirects] == [True, None], (
        "NMI's own requests"
    )
    for redirect in redirects:
        assert BINDING_LABEL not in str(redirect), "nothing of Cilium selects by a binding"
        labels = redirect["spec"]["redirectBackend"]["localEndpointSelector"]["matchLabels"]
        selected = [
            manifest["metadata"]["name"] for manifest in objects if labels.items() <= template_labels(manifest).items()
        ]
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
            (own.get(expression["key"]) in expression["values"]) is (expression["operator"] == "In")
            for expression in selector["matchExpressions"]
        )

    (policy,) = (manifest for manifest in objects if manifest["kind"] == "CiliumClusterwideNetworkPolicy")
    assert any(selects(rule["endpointSelector"]) for rule in policy["specs"]) is denied
