"""Test of an operator's kubectl commands on a sandbox.

They are the commands that an operator runs after `podidctl sandbox up`. Excluded: the sandbox's output of the variables
to export.
"""

import asyncio

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.sandbox import Sandbox
from tests.integration.conftest import ROOT, Kubectl
from tests.support.waiting import until

ASSIGNED = "jsonpath={.status.status}=Assigned"


async def test_kubectl_applies_the_demo_and_shows_the_result(sandbox: Sandbox, kubectl: Kubectl) -> None:
    everything = ("get", "azureidentity,azureidentitybinding,azureassignedidentity,pods", "-A", "--no-headers")
    assert await asyncio.to_thread(kubectl, *everything) == ""

    applied = await asyncio.to_thread(kubectl, "apply", "-f", str(ROOT / "deploy" / "demo"))
    assert applied.splitlines() == [
        "azureidentity.aadpodidentity.k8s.io/demo created",
        "azureidentitybinding.aadpodidentity.k8s.io/demo-binding created",
        "pod/demo created",
    ]
    await asyncio.to_thread(kubectl, "wait", "pod/demo", "--for=condition=Ready", "--timeout=15s")
    created = ("wait", "azureassignedidentity/demo-default-demo", "--for=create", "--timeout=15s")
    await asyncio.to_thread(kubectl, *created)
    await asyncio.to_thread(kubectl, *created[:2], f"--for={ASSIGNED}", "--timeout=15s")

    shown = await asyncio.to_thread(kubectl, *everything)
    rows = [line.split() for line in shown.splitlines() if line]
    assert ["default", "azureidentity.aadpodidentity.k8s.io/demo", "0", DEMO_CLIENT_ID] in [row[:4] for row in rows]
    assert ["Assigned", "demo", "default", "node-0"] in [row[2:6] for row in rows]

    log = await until(
        lambda: asyncio.to_thread(kubectl, "logs", "demo"), "the demo", holds=lambda text: "instance metadata" in text
    )
    assert log.startswith("starting demo pod default/demo ")
    assert [line.split(",")[0] for line in log.splitlines()[1:5]] == [
        "successfully doARMOperations vm count 1",
        "successfully acquired a token using the MSI",
        "successfully acquired a token",
        "successfully made GET on instance metadata",
    ]
    described = ("describe", "azureidentitybinding", "demo-binding")
    await until(
        lambda: asyncio.to_thread(kubectl, *described),
        "the Event, which MIC sends later",
        holds=lambda text: "binding applied" in text,
    )

    await asyncio.to_thread(kubectl, "delete", "-f", str(ROOT / "deploy" / "demo"), "--timeout=15s")
    gone = ("wait", "azureassignedidentity/demo-default-demo", "--for=delete", "--timeout=15s")
    await asyncio.to_thread(kubectl, *gone)
    assert await asyncio.to_thread(kubectl, *everything) == ""
    assert sandbox.azure.arm.vm(sandbox.vm_id("node-0")).identities == frozenset()
