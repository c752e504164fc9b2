"""The doctor in the network of a sandbox's node, with the real NMI and its rule."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.pod_projection import NodePod
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.conftest import ROOT
from tests.sandbox.cloud.conftest import eventually, pod

pytestmark = pytest.mark.root

CONNECT = "import socket; socket.create_connection(('169.254.169.254', 80), 5).close()"


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    environment["PATH"] = os.environ["PATH"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False)


def examine(context: ExecutionContext, kubeconfig: str) -> dict[str, Any]:
    """By check: level and text."""
    words = [sys.executable, "-m", "podidctl", "doctor", "--node=node-0", "--imds", "-o", "json"]
    done = run(context.command(words), KUBECONFIG=kubeconfig)
    assert done.stderr == ""
    return {each["check"]: (each["level"], each["says"]) for each in json.loads(done.stdout)["findings"]}


async def test_the_rule_and_its_packet_counter_are_read() -> None:
    pods: list[ExecutionContext] = []

    def runs(node: str, started: NodePod, context: ExecutionContext) -> None:
        pods.append(context)

    async with Sandbox(Settings(namespaces=True, environment=os.environ), on_pod_running=runs) as sandbox:
        document = pod("bound")
        document["metadata"]["labels"] = {"aadpodidbinding": "demo"}
        await sandbox.cluster.apply(document)

        async def running() -> bool:
            return bool(pods)

        await eventually(running, sandbox)
        node, kubeconfig = sandbox.contexts["node-0"], str(sandbox.cluster.kubeconfig)
        before = await asyncio.to_thread(examine, node, kubeconfig)
        assert before["nat rule"] == ("ok", "node node-0: in force, before all other rules")
        assert before["redirects"][0] == "warning"
        assert before["IMDS"][0] == "ok"
        connected = await asyncio.to_thread(run, pods[0].command([sys.executable, "-c", CONNECT]))
        assert connected.returncode == 0, connected.stderr
        after = await asyncio.to_thread(examine, node, kubeconfig)
        assert after["redirects"] == ("ok", "node node-0: 1 connection redirected to NMI")
