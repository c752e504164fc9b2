"""The start-up taint on the real kube-apiserver: patches, concurrent changes of the node, and the required
permission."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import NODES, PODS
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.real_server import add_node, in_place_of_the_emulator
from tests.support.objects import vm_id
from tests.support.waiting import until
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

KEY = "aadpodidentity.k8s.io/nmi-not-ready"
TAINTS = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}, {"key": KEY, "effect": "NoSchedule"}]
FLAG = f"--startup-taint={KEY}"
LABELS = {"app.kubernetes.io/component": "nmi"}
RIGHTS = [
    {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["configmaps", "endpoints"], "verbs": ["get", "create", "update"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": ["aadpodidentity.k8s.io"], "resources": ["*"], "verbs": ["*"]},
]


@pytest.fixture
async def real(cloud: EmulatedCloud, new_plane: NewPlane) -> Plane:
    """The real server, with three tainted nodes, each with its NMI."""

    def prepare(plane: Plane) -> None:
        for number in range(3):
            add_node(plane, f"n{number}", vm_id(f"n{number}"))
            taint = {"spec": {"taints": TAINTS}}
            plane.api("PATCH", NODES.path(name=f"n{number}"), taint, "application/merge-patch+json")

    return await in_place_of_the_emulator(cloud, new_plane, prepare)


def nmi(plane: Plane, number: int) -> None:
    """A pod of the DaemonSet on that node, Ready."""
    name = f"nmi-{number}"
    spec = {"nodeName": f"n{number}", "containers": [{"name": "nmi", "image": "nmi"}]}
    plane.api("POST", PODS.path("default"), {"metadata": {"name": name, "labels": LABELS}, "spec": spec})
    status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    plane.api("PATCH", PODS.path("default", name, "status"), status, "application/merge-patch+json")


def taints(plane: Plane, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.api("GET", NODES.path(name=name))["spec"].get("taints", [])
    return [{key: each[key] for key in ("key", "value", "effect") if key in each} for each in found]


async def untainted(plane: Plane, name: str) -> None:
    await until(
        lambda: asyncio.to_thread(taints, plane, name),
        f"no taint on {name}",
        holds=lambda found: KEY not in [each["key"] for each in found],
    )


async def test_without_permission_the_missing_permission_is_logged_once(cloud: EmulatedCloud, real: Plane) -> None:
    await asyncio.to_thread(_as_a_service_account, real, cloud.folder / "kubeconfig")
    for number in range(3):
        await asyncio.to_thread(nmi, real, number)
    mic = await cloud.mic(FLAG)
    message = "not allowed to remove start-up taints; grant MIC's ClusterRole `patch` on nodes"
    await cloud.until(lambda: message in mic.read_log())
    assert mic.read_log().count(message) == 1
    right = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}
    role = {"metadata": {"name": "mic"}, "rules": [*RIGHTS, right]}
    await asyncio.to_thread(real.api, "PUT", "/apis/rbac.authorization.k8s.io/v1/clusterroles/mic", role)
    for number in range(3):
        await untainted(real, f"n{number}")


def _as_a_service_account(plane: Plane, kubeconfig: Path) -> None:
    """A kubeconfig whose user has only RIGHTS."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    plane.api("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "mic"}})
    plane.api("POST", f"{rbac}/clusterroles", {"metadata": {"name": "mic"}, "rules": RIGHTS})
    subject = {"kind": "ServiceAccount", "name": "mic", "namespace": "default"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "mic"}
    binding = {"metadata": {"name": "mic"}, "subjects": [subject], "roleRef": role}
    plane.api("POST", f"{rbac}/clusterrolebindings", binding)
    path = "/api/v1/namespaces/default/serviceaccounts/mic/token"
    token = plane.api("POST", path, {"spec": {}})["status"]["token"]
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: c, cluster: {{server: '{plane.server}', certificate-authority: '{_ca(plane)}'}}}}]\n"
        f"users: [{{name: c, user: {{token: '{token}'}}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: c}}]\n"
    )


def _ca(plane: Plane) -> Path:
    return Path(plane.directory, "ca.crt")
