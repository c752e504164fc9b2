"""`podidctl top` through the proxy of the real kube-apiserver, with and without the permission for it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podidctl.top.schema import NodeSample, Sample
from podidentity.resources import PODS
from tests.mic.preview.run_programs import run
from tests.testplane.accounts import create_account
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

LIST = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
PROXY = {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}


def account(plane: Plane, name: str, rules: list[Any], folder: Path) -> None:
    """Write the kubeconfig of an account with these permissions to *folder*."""
    (folder / "kubeconfig").write_text(create_account(plane, name, rules))


@pytest.fixture
def nmi(plane: Plane) -> Iterator[str]:
    """Create a running pod of NMI on this machine's loopback. Returns its name."""
    name = "top-nmi"
    container = {"name": "nmi", "image": "nmi", "args": ["--prometheus-port=9090"]}
    spec = {"nodeName": "top-node", "hostNetwork": True, "containers": [container], "terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "namespace": "default", "labels": {"app.kubernetes.io/component": "nmi"}}
    plane.api("POST", PODS.path("default"), {"metadata": metadata, "spec": spec})
    set_address(plane, name, "127.0.0.1")
    yield name
    plane.api("DELETE", PODS.path("default", name), {"gracePeriodSeconds": 0})


def set_address(plane: Plane, name: str, address: str) -> None:
    ready = {"type": "Ready", "status": "True"}
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}}
    plane.api("PATCH", PODS.path("default", name, "status"), status, content_type="application/merge-patch+json")


async def top(folder: Path) -> tuple[int, NodeSample]:
    """Return the exit code and the sample of the only NMI."""
    answer = await run(folder, "podidctl", "top", "-o", "json", "--interval=1", cloudconfig=False)
    (found,) = msgspec.json.decode(answer.out, type=Sample).nodes
    assert found.node == "top-node"
    return answer.code, found


async def test_without_the_permission_the_reason_names_it(plane: Plane, nmi: str, tmp_path: Path) -> None:
    await asyncio.to_thread(account, plane, "top-lister", [LIST], tmp_path)
    code, found = await top(tmp_path)
    assert code == 1
    assert found.problem.startswith("not allowed: grant get on pods/proxy in namespace default (")


async def test_an_address_that_the_server_refuses_to_reach_is_the_reason(
    plane: Plane, nmi: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(account, plane, "top-reader", [LIST, PROXY], tmp_path)
    code, found = await top(tmp_path)
    assert code == 1
    assert found.problem.startswith("the API server cannot read the metrics: ")
    assert "address not allowed" in found.problem
