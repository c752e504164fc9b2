"""Objects of the kinds that the migrations read, as the API server stores them."""

from typing import Any

from podidentity.resources import BINDINGS, EXCEPTIONS, IDENTITIES, Pod, PodMarks, PodMeta, PodSpec, PodStatus

ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"


def identity(name: str = "demo", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": IDENTITIES.api_version,
        "kind": "AzureIdentity",
        "metadata": {"name": name, "namespace": namespace, "annotations": spec.pop("annotations", {})},
        "spec": {"type": 0, "resourceID": ID + name, "clientID": f"client-{name}", **spec},
    }


def binding(name: str = "demo", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": BINDINGS.api_version,
        "kind": "AzureIdentityBinding",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"azureIdentity": name, "selector": name, **spec},
    }


def exception(**labels: str) -> dict[str, Any]:
    return {
        "apiVersion": EXCEPTIONS.api_version,
        "kind": "AzurePodIdentityException",
        "metadata": {"name": "e", "namespace": "shop"},
        "spec": {"podLabels": labels},
    }


def pod(name: str = "web", label: str = "demo", phase: str = "Running", *, mirror: bool = False) -> Pod:
    marks = PodMarks(mirror="hash") if mirror else None
    return Pod(
        metadata=PodMeta(name=name, namespace="shop", labels={"aadpodidbinding": label}, marks=marks),
        spec=PodSpec(node_name="n"),
        status=PodStatus(phase=phase),
    )
