"""Shell completion: names from the cluster, and no candidates on failure."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from podidctl.cli import application
from podidctl.cluster_access import CliContext
from podidctl.completion import ClusterNames
from tests.mic.emulated_cloud import EmulatedCloud


def context(**given: str) -> typer.Context:
    """Stand-in for the command line so far."""
    made = typer.Context(get_command(application()))
    made.params.update(given)
    return made


def names(cloud: EmulatedCloud) -> ClusterNames:
    return ClusterNames(CliContext({"KUBECONFIG": str(cloud.folder / "kubeconfig")}, Path.home), seconds=30)


async def ask(complete: Callable[[typer.Context, str], list[str]], begun: str, **given: str) -> list[str]:
    return await asyncio.to_thread(complete, context(**given), begun)


async def test_pods_and_namespaces_with_the_prefix_are_completed(cloud: EmulatedCloud) -> None:
    cloud.api.store.create("namespaces", {"metadata": {"name": "payments"}})
    cloud.node("n0")
    cloud.pod("web", "n0")
    cloud.pod("worker", "n0", namespace="payments")
    from_cluster = names(cloud)
    assert await ask(from_cluster.namespaces, "pay") == ["payments"]
    assert await ask(from_cluster.pods, "") == ["default/web", "payments/worker"]
    assert await ask(from_cluster.pods, "payments/") == ["payments/worker"]
    assert await ask(from_cluster.pods, "w", namespace="payments") == ["worker"]
    assert await ask(from_cluster.pods, "x") == []


async def test_an_unreachable_cluster_completes_nothing_and_prints_nothing(
    cloud: EmulatedCloud, capfd: pytest.CaptureFixture[str]
) -> None:
    await cloud.api.stop()
    assert await ask(names(cloud).pods, "") == []
    nowhere = ClusterNames(CliContext({"KUBECONFIG": "/nowhere"}, Path.home))
    assert await ask(nowhere.namespaces, "") == []
    assert capfd.readouterr() == ("", "")
