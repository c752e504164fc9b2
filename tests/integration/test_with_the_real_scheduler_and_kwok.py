"""Test of the demo on a cluster with the real API server, scheduler, controllers and kwok.

Only MIC, NMI and the Azure emulator belong to this project. kwok gives a pod an address and reports it as Running, but
runs no container. The test sends the pod's requests, from the pod's address, on the pod's node.
"""

import asyncio
import http.client
import json
import operator
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, PODS
from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import NMI_PORT, Settings
from podidentity_sandbox.tokens import read_claims
from tests.conftest import NewPlane
from tests.integration.conftest import ROOT
from tests.support.waiting import until
from tests.testplane import up

PATH = "/metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"


class Pod:
    """Kept-alive connection from the pod's address to NMI, opened on the pod's node."""

    def __init__(self, sandbox: Sandbox, address: str) -> None:
        assert isinstance(sandbox.network, Fabric)
        entered = ("ip", "-n", sandbox.network.node_namespace("node-0"))
        subprocess.run([*entered, "address", "add", f"{address}/32", "dev", "lo"], check=True, timeout=10)
        self._connection = http.client.HTTPConnection("127.0.0.1", NMI_PORT, timeout=20, source_address=(address, 0))
        sandbox.network.call_on_node("node-0", self._connection.connect)

    def close(self) -> None:
        self._connection.close()

    def ask(self) -> tuple[int, dict[str, Any]]:
        self._connection.request("GET", PATH, headers={"Metadata": "true"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


async def status_of(sandbox: Sandbox) -> list[str]:
    return [found.status.status for found in await sandbox.cluster.client.list(ASSIGNED_IDENTITIES)]


@pytest.mark.root
@pytest.mark.plane
async def test_a_pod_of_the_real_scheduler_gets_its_token_until_it_ends(
    new_plane: NewPlane, request: pytest.FixtureRequest
) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True, kwok=True)

    def kubectl(*arguments: str) -> None:
        command = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=40)

    settings = Settings(
        namespaces=True, kubeconfig=Path(plane.kubeconfig), schedule=False, run_pods=False, environment=os.environ
    )
    async with Sandbox(settings) as sandbox:
        await asyncio.to_thread(kubectl, "apply", "-f", str(ROOT / "deploy" / "demo"))
        await asyncio.to_thread(kubectl, "wait", "pod/demo", "--for=condition=Ready", "--timeout=30s")
        demo = await sandbox.cluster.client.get(PODS, "default", "demo")
        assert demo.spec.node_name == "node-0"

        pod = await asyncio.to_thread(Pod, sandbox, demo.status.pod_ip)
        request.addfinalizer(pod.close)
        status, body = await asyncio.to_thread(pod.ask)  # NMI holds it until MIC has assigned the identity
        assert status == 200, body
        assert read_claims(body["access_token"])["appid"] == DEMO_CLIENT_ID
        assert await status_of(sandbox) == [ASSIGNED]

        await asyncio.to_thread(kubectl, "delete", "pod", "demo", "--timeout=30s")
        await until(
            lambda: asyncio.to_thread(pod.ask), "NMI, which follows by a watch", holds=lambda answer: answer[0] == 404
        )
        await until(lambda: status_of(sandbox), "the assignment ends", holds=operator.not_)
        assert sandbox.azure.arm.vm(sandbox.vm_id("node-0")).identities == frozenset()
