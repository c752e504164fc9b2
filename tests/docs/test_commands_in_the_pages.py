"""Commands in the documentation name objects that the project installs, with their namespace."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.sentences import ROOT
from tools.chart.rendering import DEFAULTS

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
INSTALLED = sorted(
    [*(ROOT / "deploy" / "manifests").rglob("*.yaml"), *(ROOT / "deploy" / "demo").rglob("*.yaml"), DEFAULTS]
)
COMMAND = re.compile(r"`(kubectl [^`]+)`|^ *(?:[\w$()=]*\()?(kubectl .+)", re.MULTILINE)
OBJECT = re.compile(r"(?<!-f )\b(deploy|deployment|ds|daemonset)/([a-z][\w-]*)")
KINDS = {"deploy": "Deployment", "deployment": "Deployment", "ds": "DaemonSet", "daemonset": "DaemonSet"}


def commands(page: Path) -> Iterator[str]:
    """Yield each kubectl command in blocks and sentences; a wrapped command is one."""
    text = re.sub(r"\\\n *", " ", page.read_text())
    for found in COMMAND.finditer(text):
        yield " ".join((found[1] or found[2]).split())


@pytest.fixture(scope="module")
def installed() -> set[tuple[str, str]]:
    """Return kind and name of the objects that run pods."""
    return {
        (document["kind"], document["metadata"]["name"])
        for file in INSTALLED
        for document in yaml.safe_load_all(file.read_text())
        if document and document["kind"] in KINDS.values()
    }


def test_the_number_of_commands_is_plausible() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 50
    assert sum(bool(OBJECT.search(command)) for command in found) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_deployment_or_daemonset_that_a_command_names_is_installed(
    page: Path, installed: set[tuple[str, str]]
) -> None:
    named = {(KINDS[kind], name) for command in commands(page) for kind, name in OBJECT.findall(command)}
    assert named <= installed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_for_such_an_object_names_the_namespace(page: Path) -> None:
    for command in commands(page):
        assert not OBJECT.search(command) or re.search(r" (-n|--namespace) \S", command), command
