"""The commands of the quick start's "Try the installation", word for word."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.tokens import read_claims
from tests.support.checkout import ROOT
from tests.support.operators_shell import Terminal, blocks_of, commands_of, sandbox_cluster

pytestmark = [pytest.mark.root, pytest.mark.plane, pytest.mark.nightly]

SECTION: Final = re.compile(r"^## Try the installation\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def blocks() -> list[list[str]]:
    """The commands of each block of the section."""
    (section,) = SECTION.findall((ROOT / "docs" / "quick-start.md").read_text())
    return [commands_of(block) for block in blocks_of(section)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[None]:
    """The processes and files of `make cluster` with a node of the sandbox; none remains after Ctrl-C."""
    with sandbox_cluster(tmp_path):
        yield


def a_fault_is_explained_and_everything_removed(terminal: Terminal, look: list[str], leave: list[str]) -> None:
    """Type the page's blocks after the first token."""
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
def test_the_commands_of_the_quick_start() -> None:
    start, use, look, leave = blocks()
    assert start == ["make cluster"]  # which the fixture has done
    terminal = Terminal()
    printed = terminal.all(use)
    assert read_claims(json.loads(printed["podidctl sandbox"])["access_token"])["appid"] == DEMO_CLIENT_ID
    assert "Succeeded" in printed["helm test"]
    a_fault_is_explained_and_everything_removed(terminal, look, leave)
