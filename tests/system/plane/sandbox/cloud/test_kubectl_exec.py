"""`kubectl exec` in a pod of a sandbox node, through a real API server."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.sandbox.cloud.fixtures import pod
from tests.support.testplane import up
from tests.support.waiting import until

pytestmark = pytest.mark.root
CONTAINER = {
    "command": ["python3", "-c", "import time; time.sleep(600)"],
    "env": [{"name": "COLOR", "value": "green"}],
}


async def execute(
    plane: up.Plane, *command: str, text: str = "", flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    line = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}", "exec", *flags, "runner", "--", *command]
    return await asyncio.to_thread(subprocess.run, line, input=text, capture_output=True, text=True, timeout=60)


async def test_the_command_runs_in_the_pod_with_its_input_output_and_exit_code(plane: up.Plane) -> None:
    settings = SandboxSettings(namespaces=True, kubeconfig=Path(plane.kubeconfig), programs=False)
    async with Sandbox(settings) as sandbox:
        await sandbox.cluster.apply(
            pod("runner", image="aad-pod-identity/demo:1", container=CONTAINER, nodeName="node-0")
        )
        kubelet = sandbox.cluster.kubelets["node-0"]

        async def runs() -> bool:
            program = kubelet.program("default", "runner", "main")
            if program is None:
                return False
            # Before, its process executes the programs that enter the pod's network.
            words = await asyncio.to_thread(Path(f"/proc/{program.pid}/cmdline").read_bytes)
            return words.startswith(os.fsencode(sys.executable))

        await until(runs)
        done = await execute(plane, "sh", "-c", "echo out $COLOR; echo err >&2; exit 3")
        assert (done.returncode, done.stdout) == (3, "out green\n")
        assert "err\n" in done.stderr
        assert "exit code 3" in done.stderr
        context = kubelet.context("default", "runner")
        assert context is not None
        done = await execute(plane, "ip", "-o", "-4", "addr")
        assert (done.returncode, context.address in done.stdout) == (0, True), "the pod's network"
        done = await execute(plane, "cat", "/proc/1/cmdline")
        assert "time.sleep(600)" in done.stdout, "the pod's program is the first process"
        given = "x" * 300_000
        done = await execute(plane, "cat", text=given, flags=("-i",))
        assert (done.returncode, len(done.stdout)) == (0, len(given))
        done = await execute(plane, "no-such-program")
        assert done.returncode != 0
        assert "no-such-program" in done.stderr
        await sandbox.cluster.client.request("DELETE", "/api/v1/namespaces/default/pods/runner?gracePeriodSeconds=0")
