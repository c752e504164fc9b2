"""A whole sandbox with the real programs, for walks that cross every room."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox, Settings
from tests.testplane import up

ROOT = Path(__file__).parents[2]

Kubectl = Callable[..., str]


@pytest.fixture(params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """One node, everything running; pods are loopback addresses or network namespaces behind the real nat rule."""
    async with Sandbox(Settings(namespaces=request.param == "namespaces", environment=os.environ)) as running:
        yield running


@pytest.fixture
async def node() -> AsyncIterator[Sandbox]:
    """One node that is a network namespace, everything running."""
    async with Sandbox(Settings(namespaces=True, environment=os.environ)) as running:
        yield running


@pytest.fixture
def kubectl(sandbox: Sandbox) -> Kubectl:
    """Runs the real kubectl against the sandbox and returns what it printed. It blocks: call it in a thread."""

    def run(*arguments: str) -> str:
        command = [str(up.tool("kubectl")), f"--kubeconfig={sandbox.cluster.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
