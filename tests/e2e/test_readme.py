"""The commands of README's "Try the installation", word for word."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.namespaces import NAMESPACES
from podidentity_sandbox.tokens import read_claims
from tests.e2e.e2e_cluster import ROOT

pytestmark = [pytest.mark.root, pytest.mark.plane]

UP_SECONDS: Final = 60.0
COMMAND_SECONDS: Final = 90
SECTION: Final = re.compile(r"^## Try the installation\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK: Final = re.compile(r"^```\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def blocks() -> list[list[str]]:
    """The commands of each block of the section."""
    (section,) = SECTION.findall((ROOT / "README.md").read_text())
    return [re.sub(r" \\\n\s*", " ", block).splitlines() for block in BLOCK.findall(section)]


class Terminal:
    """A shell that keeps exported variables."""

    def __init__(self) -> None:
        self._exports: list[str] = []

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        if command.startswith("export "):
            self._exports.append(command)
        line = "\n".join([*self._exports, command])
        return subprocess.run(
            ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )

    def all(self, commands: Sequence[str]) -> dict[str, str]:
        """What each of the commands printed, by its first words; all must succeed."""
        printed: dict[str, str] = {}
        for command in commands:
            done = self.type(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            printed[" ".join(command.split()[:2])] = done.stdout
        return printed


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[None]:
    """The processes and files of `make cluster` with a node of the sandbox; none remains after Ctrl-C."""
    log = tmp_path / "cluster.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.cluster", "--node=sandbox"], cwd=ROOT, stdout=output, stderr=output
        )
    deadline = time.monotonic() + UP_SECONDS
    while "The sandbox is up" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    assert list(NAMESPACES.glob(f"podid-{process.pid}-*"))
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
    assert not list(NAMESPACES.glob(f"podid-{process.pid}-*"))


def a_fault_is_explained_and_everything_removed(terminal: Terminal, look: list[str], leave: list[str]) -> None:
    """Type README's blocks after the first token."""
    breaking, explain, doctor = look
    terminal.all([breaking])
    explained, examined = terminal.type(explain), terminal.type(doctor)
    assert explained.returncode == examined.returncode == 3, explained.stderr + examined.stderr
    assert "default/demo-binding selects 'Demo'" in explained.stdout
    assert re.search(r"granted +default/demo +https://management.azure.com", explained.stdout), explained.stdout
    assert "1 pod has a label that no binding selects" in examined.stdout
    terminal.all(leave)
    assert terminal.type("kubectl get pods --namespace default --output name").stdout == ""


@pytest.mark.usefixtures("cluster")
def test_the_commands_of_the_readme() -> None:
    start, use, look, leave = blocks()
    assert start == ["make cluster"]  # which the fixture has done
    terminal = Terminal()
    printed = terminal.all(use)
    assert read_claims(json.loads(printed["podidctl sandbox"])["access_token"])["appid"] == DEMO_CLIENT_ID
    assert "Succeeded" in printed["helm test"]
    a_fault_is_explained_and_everything_removed(terminal, look, leave)
