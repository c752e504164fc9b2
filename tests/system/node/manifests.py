"""The objects that the tests of a node create: identities, bindings and pods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from podidentity.version import VERSION
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node.configuration import REPOSITORY

PROBER: Final = (Path(__file__).parent / "prober.py").read_text()
LOAD_IMAGE: Final = "localhost/realnode/load:1"
"""The image of load_client.c."""
IMAGE: Final = f"{REPOSITORY}/demo:{VERSION}"
GROUP: Final = "aadpodidentity.k8s.io/v1"

Manifest = dict[str, Any]


def identity(name: str, resource_id: str, client_id: str, *, namespace: str = "default", **spec: Any) -> Manifest:
    """Return an AzureIdentity of type 0, or of the type in *spec*."""
    return {
        "apiVersion": GROUP,
        "kind": "AzureIdentity",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": 0, "clientID": client_id, **({"resourceID": resource_id} if resource_id else {}), **spec},
    }


def binding(name: str, *, namespace: str = "default") -> Manifest:
    """Return an AzureIdentityBinding of the selector *name* to the identity of that name."""
    return {
        "apiVersion": GROUP,
        "kind": "AzureIdentityBinding",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"azureIdentity": name, "selector": name},
    }


def prober(name: str, *, selector: str = "", **spec: Any) -> Manifest:
    """Return a pod that requests a token every 100 ms. *spec* is added to the pod's specification."""
    labels = {"aadpodidbinding": selector} if selector else {}
    return pod(name, ["python3", "-c", PROBER], labels=labels, **spec)


def load_pod(name: str, *, selector: str, rate: float, new_percent: int, **spec: Any) -> Manifest:
    """Return a pod that requests *rate* tokens a second, *new_percent* of them on a connection of their own."""
    variables = {"RATE": str(rate), "NEW_PERCENT": str(new_percent), "HOST": METADATA_ADDRESS, "PORT": "80"}
    made = pod(name, ["/load"], labels={"aadpodidbinding": selector} if selector else {}, environment=variables, **spec)
    made["spec"]["containers"][0]["image"] = LOAD_IMAGE
    return made


def pod(
    name: str,
    command: list[str],
    *,
    labels: Mapping[str, str] | None = None,
    namespace: str = "default",
    environment: Mapping[str, str] | None = None,
    **spec: Any,
) -> Manifest:
    """Return a pod with one container of the demo's image."""
    variables = [{"name": key, "value": value} for key, value in (environment or {}).items()]
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": command}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name, **(labels or {})}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{**container, "env": variables}], **spec},
    }
