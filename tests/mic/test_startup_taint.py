"""MIC removes the start-up taint of a node when its NMI is Ready, not before, and changes nothing else of the node."""

from collections.abc import Mapping
from typing import Any

import pytest

from mic.startup.startup_taint import without
from tests.mic.emulated_cloud import EmulatedCloud

KEY = "aadpodidentity.k8s.io/nmi-not-ready"
TAINT = {"key": KEY, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}
OTHER = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
FLAG = f"--startup-taint={KEY}"


def tainted(cloud: EmulatedCloud, name: str, *taints: Mapping[str, str]) -> None:
    cloud.node(name)
    cloud.api.store.patch("nodes", name, {"spec": {"taints": list(taints)}})


def taints(cloud: EmulatedCloud, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.api.store.get("nodes", name)["spec"].get("taints", [])
    return found


def nmi(cloud: EmulatedCloud, name: str, node: str, *, ready: bool = True, namespace: str = "default") -> None:
    """A pod of the DaemonSet. MIC runs in the namespace default here."""
    cloud.api.store.create(
        "pods",
        {
            "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/component": "nmi"}},
            "spec": {"nodeName": node, "containers": [{"name": "nmi", "image": "nmi"}]},
        },
    )
    readiness(cloud, name, namespace, ready=ready)


def readiness(cloud: EmulatedCloud, name: str, namespace: str = "default", *, ready: bool) -> None:
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    cloud.api.store.patch("pods", name, {"status": status}, namespace, subresource="status")


async def test_a_node_whose_nmi_is_ready_loses_the_taint_and_keeps_its_others(cloud: EmulatedCloud) -> None:
    tainted(cloud, "n0", OTHER, TAINT, TAINT | {"effect": "NoExecute"})
    nmi(cloud, "nmi-0", "n0")
    mic = await cloud.mic(FLAG)
    await cloud.until(lambda: taints(cloud, "n0") == [OTHER])
    await cloud.until(lambda: "NMI is ready on the node; start-up taint removed" in mic.read_log())


async def test_a_node_created_later_loses_it_when_its_nmi_becomes_ready(cloud: EmulatedCloud) -> None:
    await cloud.mic(FLAG)
    tainted(cloud, "n0", TAINT)
    nmi(cloud, "nmi-0", "n0", ready=False)
    tainted(cloud, "n1", TAINT)
    nmi(cloud, "nmi-1", "n1")
    await cloud.until(lambda: taints(cloud, "n1") == [])
    assert taints(cloud, "n0") == [TAINT]
    readiness(cloud, "nmi-0", ready=True)
    await cloud.until(lambda: taints(cloud, "n0") == [])


@pytest.mark.parametrize("why", ["not ready", "another namespace", "going", "another node"])
async def test_a_node_without_a_ready_nmi_of_ours_keeps_it(cloud: EmulatedCloud, why: str) -> None:
    tainted(cloud, "n0", TAINT)
    tainted(cloud, "n1", TAINT)
    if why == "another namespace":
        cloud.api.store.create("namespaces", {"metadata": {"name": "elsewhere"}})
    at, namespace = "n2" if why == "another node" else "n0", "elsewhere" if why == "another namespace" else "default"
    nmi(cloud, "nmi-0", at, ready=why != "not ready", namespace=namespace)
    if why == "going":
        cloud.api.store.patch("pods", "nmi-0", {"metadata": {"finalizers": ["x.y/z"]}}, "default")
        cloud.api.store.delete("pods", "nmi-0", "default")
    nmi(cloud, "nmi-1", "n1")
    await cloud.mic(FLAG)
    await cloud.until(lambda: taints(cloud, "n1") == [])
    assert taints(cloud, "n0") == [TAINT]


async def test_without_the_flag_taints_are_not_changed(cloud: EmulatedCloud) -> None:
    tainted(cloud, "n0", TAINT)
    nmi(cloud, "nmi-0", "n0")
    cloud.identity()
    await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert taints(cloud, "n0") == [TAINT]


def test_only_the_taints_key_matters() -> None:
    assert without([TAINT, OTHER], "sku") == [TAINT]
    assert without([TAINT, OTHER], "gpu") == [TAINT, OTHER]
