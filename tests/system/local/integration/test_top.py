"""`podidctl top` as a process, on the real NMI of a sandbox: its numbers, its document, its view on a terminal."""

import asyncio
import os
import pty
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest

from podidctl.top.sampling import Sample
from podidentity.kube.errors import ApiError
from podidentity.resources import PODS
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import NAMESPACE, SandboxSettings
from tests.support.identity_requests import NODE, ask, run_bound_pod, run_pod

TOP = (sys.executable, "-m", "podidctl", "top")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox whose API server has the pod of NMI."""
    async with Sandbox(SandboxSettings(namespaces=False, environment=os.environ, daemon_pods=True)) as running:
        yield running


async def top(sandbox: Sandbox, *flags: str) -> tuple[int, str, str]:
    """Return exit code and output of the command."""
    pipe = asyncio.subprocess.PIPE
    command = (*TOP, f"--kubeconfig={sandbox.cluster.kubeconfig}", "--interval=2", *flags)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=sandbox.commands.inherited()
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_sample_has_what_the_node_did(sandbox: Sandbox) -> None:
    _, context = await run_bound_pod(sandbox, "busy")
    unbound = await run_pod(sandbox, "unbound", {})
    for _ in range(3):
        assert (await ask(sandbox, context)).status == 200
    assert (await ask(sandbox, unbound)).status == 400

    stop = asyncio.Event()

    async def send() -> None:
        while not stop.is_set():
            await ask(sandbox, context)

    sending = asyncio.create_task(send())
    code, out, err = await top(sandbox, "-o", "json")
    stop.set()
    await sending

    assert (code, err) == (0, "")
    sample = msgspec.json.decode(out, type=Sample)
    (node,) = sample.nodes
    assert sample.interval_seconds > 1.9
    assert (node.node, node.pod, node.problem) == (NODE, f"{NAMESPACE}/nmi-{NODE}", "")
    assert node.pods == 2
    assert node.requests_per_second
    assert node.refusals_per_second == 0.0
    assert node.refusals == {"nothing_assigned": 1}
    assert node.imds_calls == 1
    assert node.tokens == 1
    assert node.oldest_token_seconds
    assert node.next_expiry_seconds


async def test_an_nmi_that_ended_is_unknown_with_the_reason(sandbox: Sandbox) -> None:
    await sandbox.nmis[NODE].program.stop()
    code, out, err = await top(sandbox)

    assert code == 1
    assert "unknown" in out
    assert f"{NODE}: the API server cannot read the metrics" in out or f"{NODE}: NMI is not ready" in out
    assert "no NMI can be read" in err


async def test_keys_sort_and_quit_on_a_terminal(sandbox: Sandbox) -> None:
    controller, terminal = pty.openpty()
    shown = b""
    try:
        process = await asyncio.create_subprocess_exec(
            *TOP,
            f"--kubeconfig={sandbox.cluster.kubeconfig}",
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**sandbox.commands.inherited(), "TERM": "xterm", "COLUMNS": "160", "LINES": "30"},
        )

        async def until(text: str) -> None:
            nonlocal shown
            while text.encode() not in shown:
                shown += await asyncio.to_thread(os.read, controller, 65536)

        await until("NODE ▲")
        await until(NODE)
        os.write(controller, b"\x1b[C\x1b[C\x1b[C")
        await until("REQ/S ▼")
        os.write(controller, b"q")
        assert await process.wait() == 0
    finally:
        os.close(terminal)
        os.close(controller)


async def test_the_sandbox_serves_pages_of_pods_on_the_nodes_network_only(sandbox: Sandbox) -> None:
    await run_pod(sandbox, "own-network", {})
    client, nmi = sandbox.cluster.client, PODS.path(NAMESPACE, f"nmi-{NODE}:{sandbox.nmis[NODE].metrics_port}")

    assert b"aadpodidentity_nmi_index_size" in await client.request("GET", f"{nmi}/proxy/metrics")
    for path, status in (
        (f"{nmi}/proxy/absent", 404),
        (PODS.path(NAMESPACE, "absent:80", "proxy") + "/metrics", 404),
        (PODS.path(NAMESPACE, f"nmi-{NODE}:1", "proxy") + "/metrics", 503),
        (PODS.path(NAMESPACE, f"nmi-{NODE}:x", "proxy") + "/metrics", 400),
        (PODS.path("default", "own-network:80", "proxy") + "/metrics", 503),
    ):
        with pytest.raises(ApiError) as raised:
            await client.request("GET", path)
        assert raised.value.status == status, path
