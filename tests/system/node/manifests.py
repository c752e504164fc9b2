"""The objects that the tests of a node create: identities, bindings and pods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from podidentity.version import VERSION
from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, identity_id
from podidentity_sandbox.directory import ServicePrincipal
from podidentity_sandbox.network import METADATA_ADDRESS

PROBER: Final = (Path(__file__).parent / "prober.py").read_text()
REPOSITORY: Final = "localhost/realnode"
"""The repository of the images on the nodes."""
PAUSE_IMAGE: Final = f"{REPOSITORY}/pause:1"
LOAD_IMAGE: Final = f"{REPOSITORY}/load:1"
"""The image of load_client.c."""
IMAGE: Final = f"{REPOSITORY}/demo:{VERSION}"
GROUP: Final = "aadpodidentity.k8s.io/v1"
SLEEP: Final = ["sleep", "3600"]

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


def demo() -> tuple[Manifest, Manifest]:
    """Return the demo's identity and its binding."""
    return identity(DEMO_IDENTITY, identity_id(DEMO_IDENTITY), DEMO_CLIENT_ID), binding(DEMO_IDENTITY)


def principal(service_principal: ServicePrincipal, namespace: str = "default") -> tuple[Manifest, Manifest, Manifest]:
    """Return identity and binding of a service principal, with its Secret. All have the name `principal`."""
    secret = {"name": "principal", "namespace": namespace}
    application = {"type": 1, "tenantID": service_principal.tenant_id, "clientPassword": secret}
    return (
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": secret,
            "stringData": {"clientSecret": service_principal.secret},
        },
        identity("principal", "", service_principal.client_id, namespace=namespace, **application),
        binding("principal", namespace=namespace),
    )


def prober(name: str, *, selector: str = "", **spec: Any) -> Manifest:
    """Return a pod that requests a token every 100 ms. *spec* is added to the pod's specification."""
    return pod(name, ["python3", "-c", PROBER], selector=selector, **spec)


def load_pod(name: str, *, selector: str, rate: float, new_percent: int, **spec: Any) -> Manifest:
    """Return a pod that requests *rate* tokens a second, *new_percent* of them on a connection of their own."""
    variables = {"RATE": str(rate), "NEW_PERCENT": str(new_percent), "HOST": METADATA_ADDRESS, "PORT": "80"}
    made = pod(name, ["/load"], selector=selector, **spec)
    (container,) = made["spec"]["containers"]
    container |= {"image": LOAD_IMAGE, "env": [{"name": key, "value": value} for key, value in variables.items()]}
    return made


def pod(
    name: str, command: list[str] = SLEEP, *, selector: str = "", namespace: str = "default", **spec: Any
) -> Manifest:
    """Return a pod with one container of the demo's image, whose label has the *selector* of a binding."""
    labels: Mapping[str, str] = {"app": name, **({"aadpodidbinding": selector} if selector else {})}
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": command}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }
