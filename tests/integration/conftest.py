"""Fixtures for the integration tests: a complete sandbox with the real programs, and kubectl."""

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.testplane import up

ROOT = Path(__file__).parents[2]

Kubectl = Callable[..., str]


@pytest.fixture(params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Yield a sandbox with one node and all programs.

    Pods are loopback addresses, or network namespaces behind the real nat rule.
    """
    async with Sandbox(Settings(namespaces=request.param == "namespaces", environment=os.environ)) as running:
        yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory with a short path, as that of a Unix socket must be; its mode is 0700."""
    with tempfile.TemporaryDirectory(prefix="nmi-") as directory:
        yield Path(directory)


@pytest.fixture
async def node() -> AsyncIterator[Sandbox]:
    """Yield a sandbox with all programs and one node, which is a network namespace."""
    async with Sandbox(Settings(namespaces=True, environment=os.environ)) as running:
        yield running


@pytest.fixture
def kubectl(sandbox: Sandbox) -> Kubectl:
    """Return a function that runs the real kubectl against the sandbox and returns its output.

    The function blocks: call it in a thread.
    """

    def run(*arguments: str) -> str:
        command = [str(up.tool("kubectl")), f"--kubeconfig={sandbox.cluster.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
