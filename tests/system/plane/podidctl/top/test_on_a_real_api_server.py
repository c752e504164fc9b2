"""`podidctl top` through the proxy of the real kube-apiserver, with and without the permission for it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podidctl.top.schema import Sample
from podidentity.resources import PODS
from tests.support.mic.preview.run_programs import run
from tests.support.testplane.accounts import create_account
from tests.support.testplane.up import Plane

pytestmark = pytest.mark.plane

LIST = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
PROXY = {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}


@pytest.fixture
def nmi(plane: Plane) -> Iterator[None]:
    """Create a running pod of NMI on this machine's loopback."""
    name, address = "top-nmi", "127.0.0.1"
    container = {"name": "nmi", "image": "nmi", "args": ["--prometheus-port=9090"]}
    spec = {"nodeName": "top-node", "hostNetwork": True, "containers": [container], "terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "namespace": "default", "labels": {"app.kubernetes.io/component": "nmi"}}
    plane.api("POST", PODS.path("default"), {"metadata": metadata, "spec": spec})
    ready = {"type": "Ready", "status": "True"}
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}}
    plane.api("PATCH", PODS.path("default", name, "status"), status, content_type="application/merge-patch+json")
    yield
    plane.api("DELETE", PODS.path("default", name), {"gracePeriodSeconds": 0})


@pytest.mark.usefixtures("nmi")
async def test_a_missing_permission_and_a_refused_address_are_the_reason(plane: Plane, tmp_path: Path) -> None:
    async def top(account: str, *rules: dict[str, Any]) -> str:
        """Return the problem of the only NMI."""
        kubeconfig = await asyncio.to_thread(create_account, plane, account, rules)
        await asyncio.to_thread((tmp_path / "kubeconfig").write_text, kubeconfig)
        answer = await run(tmp_path, "podidctl", "top", "-o", "json", "--interval=1", cloudconfig=False)
        (found,) = msgspec.json.decode(answer.out, type=Sample).nodes
        assert (answer.code, found.node) == (1, "top-node")
        return found.problem

    problem = await top("top-lister", LIST)
    assert problem.startswith("not allowed: grant get on pods/proxy in namespace default (")
    problem = await top("top-reader", LIST, PROXY)
    assert problem.startswith("the API server cannot read the metrics: ")
    assert "address not allowed" in problem
