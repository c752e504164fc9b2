"""Pods on a real API server without a kubelet."""

from podidentity.resources import PODS
from tests.testplane.up import Plane


def run_pod(plane: Plane, name: str, account: str, labels: dict[str, str], *flags: str, address: str = "") -> None:
    """Create a pod of *account* on the node n0. With *address* it runs there."""
    container = {"name": name.partition("-")[0], "image": "i", "args": list(flags)}
    spec = {
        "nodeName": "n0",
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    plane.api("POST", PODS.path("default"), {"metadata": {"name": name, "labels": labels}, "spec": spec})
    if address:
        status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        path = f"{PODS.path('default', name)}/status"
        plane.api("PATCH", path, status, content_type="application/merge-patch+json")
