"""`kubectl exec` in a pod of a sandbox node, through a real API server."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.support.waiting import until
from tests.testplane import up

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "runner", "namespace": "default"},
    "spec": {
        "nodeName": "node-0",
        "containers": [
            {
                "name": "main",
                "image": "aad-pod-identity/demo:1",
                "command": ["python3", "-c", "import time; time.sleep(600)"],
                "env": [{"name": "COLOR", "value": "green"}],
            }
        ],
    },
}

pytestmark = pytest.mark.root


@pytest.fixture
async def sandbox(plane: up.Plane) -> AsyncIterator[Sandbox]:
    settings = Settings(namespaces=True, kubeconfig=Path(plane.kubeconfig), programs=False)
    async with Sandbox(settings) as running:
        await running.cluster.apply(POD)
        kubelet = running.cluster.kubelets["node-0"]

        async def runs() -> bool:
            program = kubelet.program("default", "runner", "main")
            if program is None:
                return False
            # Before, its process executes the programs that enter the pod's network.
            words = await asyncio.to_thread(Path(f"/proc/{program.pid}/cmdline").read_bytes)
            return words.startswith(os.fsencode(sys.executable))

        await until(runs)
        yield running
        await running.cluster.client.request("DELETE", "/api/v1/namespaces/default/pods/runner?gracePeriodSeconds=0")


async def execute(
    plane: up.Plane, *command: str, text: str = "", flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    line = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}", "exec", *flags, "runner", "--", *command]
    return await asyncio.to_thread(subprocess.run, line, input=text, capture_output=True, text=True, timeout=60)


async def test_output_errors_and_exit_code_are_the_commands(plane: up.Plane, sandbox: Sandbox) -> None:
    done = await execute(plane, "sh", "-c", "echo out $COLOR; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, "out green\n")
    assert "err\n" in done.stderr
    assert "exit code 3" in done.stderr


async def test_the_command_sees_the_pods_network_and_its_program_as_the_first_process(
    plane: up.Plane, sandbox: Sandbox
) -> None:
    context = sandbox.cluster.kubelets["node-0"].context("default", "runner")
    assert context is not None
    done = await execute(plane, "ip", "-o", "-4", "addr")
    assert (done.returncode, context.address in done.stdout) == (0, True)
    first = await execute(plane, "cat", "/proc/1/cmdline")
    assert "time.sleep(600)" in first.stdout


async def test_input_and_much_output_are_complete(plane: up.Plane, sandbox: Sandbox) -> None:
    given = "x" * 300_000
    done = await execute(plane, "cat", text=given, flags=("-i",))
    assert (done.returncode, len(done.stdout)) == (0, len(given))


async def test_a_missing_program_is_an_error(plane: up.Plane, sandbox: Sandbox) -> None:
    done = await execute(plane, "no-such-program")
    assert done.returncode != 0
    assert "no-such-program" in done.stderr
