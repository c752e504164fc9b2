"""`podidctl verify` with real pods: network namespaces, NMI as a process with its rules, and the emulated IMDS."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podidctl.verify.objects import CANARIES, CANARY_SELECTOR
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.mic.emulated_cloud import ROOT

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = Settings(nodes=2, namespaces=True, daemon_pods=True, environment=os.environ)
    async with Sandbox(settings) as running:
        yield running


async def verify(sandbox: Sandbox) -> tuple[int, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "podidctl", "verify", "-o", "json", f"--kubeconfig={sandbox.cluster.kubeconfig}"),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(110):
        output, errors = await process.communicate()
    assert process.returncode is not None
    assert not errors, errors.decode()
    return process.returncode, {each["node"]: each for each in json.loads(output)["nodes"]}


async def test_nmi_answers_until_it_stops_and_then_imds_does(sandbox: Sandbox) -> None:
    code, nodes = await verify(sandbox)
    assert {name: each["answeredBy"] for name, each in nodes.items()} == {"node-0": "nmi", "node-1": "nmi"}, nodes
    assert code == 0
    assert nodes["node-1"]["nmi"] == "default/nmi-node-1"

    await sandbox.nmis["node-1"].program.stop()  # in order, which removes its rules
    code, nodes = await verify(sandbox)
    assert {name: each["answeredBy"] for name, each in nodes.items()} == {"node-0": "nmi", "node-1": "imds"}, nodes
    assert code == 3
    assert await sandbox.cluster.client.list(CANARIES, label_selector=CANARY_SELECTOR) == []
