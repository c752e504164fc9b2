"""The role in docs/install-on-aks.md allows exactly the requests that MIC sends to Resource Manager."""

import json
import re
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT
from tests.e2e.operators_shell import blocks_of
from tests.mic.emulated_cloud import emulated_cloud
from tests.support.objects import set_id, vm_id

PAGE: Final = (ROOT / "docs" / "install-on-aks.md").read_text()
VERBS: Final = {"GET": "read", "PATCH": "write"}
RESOURCE: Final = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/(Microsoft\.Compute/\w+)/[^/]+", re.IGNORECASE
)
"""A VM or a scale set, and nothing below it."""
OPERATION: Final = re.compile(r".*/providers/Microsoft\.Compute/locations/[^/]+/operations/[^/]+", re.IGNORECASE)


def role() -> dict[str, list[str]]:
    (block,) = blocks_of(PAGE, "json")
    found: dict[str, list[str]] = json.loads(block)
    return found


def action_of(method: str, path: str) -> str:
    """Return the action of Azure that a request needs."""
    if OPERATION.fullmatch(path) and method == "GET":
        return "Microsoft.Compute/locations/operations/read"
    found = RESOURCE.fullmatch(path)
    assert found, path
    return f"{found[1]}/{VERBS[method]}"


def test_the_role_has_the_fields_of_a_role_definition() -> None:
    assert set(role()) == {"Name", "Description", "AssignableScopes", "Actions"}
    assert role()["AssignableScopes"] == ["/subscriptions/SUBSCRIPTION"]


@pytest.mark.programs
async def test_mic_needs_exactly_the_actions_of_the_role(tmp_path: Path) -> None:
    async with emulated_cloud(tmp_path) as cloud:
        cloud.identity("demo")
        cloud.node("n0")
        cloud.node("pool-0", f"azure://{set_id()}/virtualMachines/0")
        await cloud.mic()
        for name, node in (("web", "n0"), ("worker", "pool-0")):
            cloud.pod(name, node)
        await cloud.until(lambda: cloud.on(vm_id("n0")) == cloud.on(set_id()) == {"demo"})
        for name in ("web", "worker"):
            cloud.remove_pod(name)
        await cloud.until(lambda: not cloud.on(vm_id("n0")) and not cloud.on(set_id()))
        await cloud.until(lambda: not cloud.assigned())
    assert {action_of(each.method, each.path) for each in cloud.arm.calls} == set(role()["Actions"])
