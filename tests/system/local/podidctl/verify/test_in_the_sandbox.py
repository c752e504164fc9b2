"""`podidctl verify` and `doctor` with real pods: network namespaces, NMI's rules, and the emulated IMDS."""

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podidctl.verify.pod import CANARIES, CANARY_SELECTOR
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.mic.preview.run_programs import run

pytestmark = pytest.mark.root


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(nodes=2, namespaces=True, daemon_pods=True, environment=os.environ)
    async with Sandbox(settings) as running:
        yield running


async def podidctl(sandbox: Sandbox, *words: str, node: str = "") -> tuple[int, Any]:
    """Return exit code and document of the command, which runs in the network of *node* if it names one."""
    answer = await run(
        sandbox.folder,
        *("podidctl", *words, "-o", "json", f"--kubeconfig={sandbox.cluster.kubeconfig}"),
        kubeconfig=False,
        cloudconfig=False,
        inside=sandbox.contexts[node].prefix if node else (),
    )
    assert answer.err == ""
    return answer.code, answer.document


async def verify(sandbox: Sandbox) -> tuple[int, dict[str, Any]]:
    code, document = await podidctl(sandbox, "verify")
    return code, {node["node"]: node for node in document["nodes"]}


async def examine(sandbox: Sandbox) -> dict[str, tuple[str, str]]:
    """Return level and text by doctor's check of node-0."""
    _, document = await podidctl(sandbox, "doctor", "--node=node-0", "--imds", node="node-0")
    return {finding["check"]: (finding["level"], finding["says"]) for finding in document["findings"]}


async def test_nmi_answers_until_it_stops_and_then_imds_does(sandbox: Sandbox) -> None:
    before = await examine(sandbox)
    assert before["nat rule"] == ("ok", "node node-0: in force, before all other rules")
    assert before["redirects"][1] == "node node-0: 0 connections redirected to NMI"
    assert before["IMDS"][0] == "ok"
    code, nodes = await verify(sandbox)
    assert {name: node["answeredBy"] for name, node in nodes.items()} == {"node-0": "nmi", "node-1": "nmi"}, nodes
    assert code == 0
    assert nodes["node-1"]["nmi"] == "default/nmi-node-1"
    assert (await examine(sandbox))["redirects"] == ("ok", "node node-0: 5 connections redirected to NMI")

    await sandbox.nmis["node-1"].program.stop()  # in order, which removes its rules
    code, nodes = await verify(sandbox)
    assert {name: node["answeredBy"] for name, node in nodes.items()} == {"node-0": "nmi", "node-1": "imds"}, nodes
    assert code == 3
    assert await sandbox.cluster.client.list(CANARIES, label_selector=CANARY_SELECTOR) == []
