"""MIC removes the start-up taint of a node when its NMI is Ready, not before, and changes nothing else of the node."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mic.startup.startup_taint import StartupTaint, without
from tests.support.memory_api import MemoryApi

KEY = "aadpodidentity.k8s.io/nmi-not-ready"
LABEL = "app.kubernetes.io/component"
TAINT = {"key": KEY, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}
OTHER = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}


@pytest.fixture
async def api() -> AsyncIterator[MemoryApi]:
    """An API server on which MIC runs in the namespace default."""
    made = MemoryApi()
    async with made.client("mic/test") as client:
        startup = StartupTaint(client, KEY, namespace="default", selector=f"{LABEL}=nmi")
        work = asyncio.gather(startup.run(), startup.nodes.run(), startup.pods.run())
        yield made
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        made.drop_watches()


def tainted(api: MemoryApi, name: str, *taints: Mapping[str, str]) -> None:
    api.store.create("nodes", {"metadata": {"name": name}, "spec": {"taints": list(taints or (TAINT,))}})


def taints(api: MemoryApi, name: str) -> list[dict[str, Any]]:
    present: list[dict[str, Any]] = api.store.get("nodes", name)["spec"].get("taints", [])
    return present


def nmi(api: MemoryApi, node: str, *, ready: bool = True, namespace: str = "default") -> None:
    """Create the DaemonSet's pod of this node."""
    meta = {"name": f"nmi-{node}", "namespace": namespace, "labels": {LABEL: "nmi"}}
    spec = {"nodeName": node, "containers": [{"name": "nmi", "image": "nmi"}]}
    api.store.create("pods", {"metadata": meta, "spec": spec})
    readiness(api, node, namespace, ready=ready)


def readiness(api: MemoryApi, node: str, namespace: str = "default", *, ready: bool) -> None:
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    api.store.patch("pods", f"nmi-{node}", {"status": status}, namespace, subresource="status")


async def test_a_node_loses_the_taint_when_its_nmi_becomes_ready_and_keeps_its_others(
    api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tainted(api, "n0", OTHER, TAINT, TAINT | {"effect": "NoExecute"})
    nmi(api, "n0", ready=False)
    await asyncio.sleep(5.0)
    tainted(api, "n1")
    nmi(api, "n1")
    await asyncio.sleep(5.0)
    assert taints(api, "n1") == []
    assert len(taints(api, "n0")) == 3
    readiness(api, "n0", ready=True)
    await asyncio.sleep(5.0)
    assert taints(api, "n0") == [OTHER]
    assert [record.message for record in caplog.records].count("NMI is ready on the node; start-up taint removed") == 2


@pytest.mark.parametrize("case", ["not ready", "another namespace", "going", "another node"])
async def test_a_node_without_a_ready_nmi_of_ours_keeps_it(api: MemoryApi, case: str) -> None:
    tainted(api, "n0")
    api.store.create("namespaces", {"metadata": {"name": "elsewhere"}})
    namespace = "elsewhere" if case == "another namespace" else "default"
    nmi(api, "n2" if case == "another node" else "n0", ready=case not in {"not ready", "going"}, namespace=namespace)
    if case == "going":
        api.store.patch("pods", "nmi-n0", {"metadata": {"finalizers": ["x.y/z"]}}, "default")
        api.store.delete("pods", "nmi-n0", "default")
        readiness(api, "n0", ready=True)
    await asyncio.sleep(60.0)
    assert taints(api, "n0") == [TAINT]


async def test_a_missing_permission_is_logged_once(api: MemoryApi, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("n0", "n1"):
        tainted(api, name)
        nmi(api, name)
    api.refuse(403, "Forbidden", "PATCH")
    await asyncio.sleep(60.0)
    message = "not allowed to remove start-up taints; grant MIC's ClusterRole `patch` on nodes"
    assert [record.message for record in caplog.records].count(message) == 1
    api.intercept = None
    await asyncio.sleep(60.0)
    assert taints(api, "n0") == taints(api, "n1") == []


def test_only_the_taints_key_matters() -> None:
    assert without([TAINT, OTHER], "sku") == [TAINT]
    assert without([TAINT, OTHER], "gpu") == [TAINT, OTHER]
