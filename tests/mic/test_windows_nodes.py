"""MIC does not read a node's operating system, as docs/compatibility.md states."""

from pathlib import Path

import pytest

from tests.mic.emulated_cloud import emulated_cloud
from tests.support.objects import set_id


@pytest.mark.programs
async def test_the_identity_of_a_pod_on_a_windows_node_is_attached_to_its_scale_set(tmp_path: Path) -> None:
    async with emulated_cloud(tmp_path) as cloud:
        cloud.identity("demo")
        node = {
            "metadata": {"name": "pool-0", "labels": {"kubernetes.io/os": "windows"}},
            "spec": {"providerID": f"azure://{set_id()}/virtualMachines/0"},
        }
        cloud.api.store.create("nodes", node)
        await cloud.mic()
        cloud.pod("web", "pool-0")
        await cloud.until(lambda: cloud.on(set_id()) == {"demo"})
