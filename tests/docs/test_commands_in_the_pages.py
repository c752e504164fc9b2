"""The commands of the pages name what the project installs, where it is installed, and what a reader has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.sentences import ROOT

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
INSTALLED = sorted(
    [
        *(ROOT / "deploy" / "manifests").rglob("*.yaml"),
        *(ROOT / "deploy" / "demo").rglob("*.yaml"),
        *(ROOT / "tests" / "deploy" / "golden").glob("*.yaml"),
    ]
)
COMMAND = re.compile(r"`(kubectl [^`]+)`|^ *(?:[\w$()=]*\()?(kubectl .+)", re.MULTILINE)
OBJECT = re.compile(r"(?<!-f )\b(deploy|deployment|ds|daemonset)/([a-z][\w-]*)")
KINDS = {"deploy": "Deployment", "deployment": "Deployment", "ds": "DaemonSet", "daemonset": "DaemonSet"}


def commands(page: Path) -> Iterator[str]:
    """Each command of kubectl's, whether it stands in a block or in a sentence; a wrapped one is one."""
    text = re.sub(r"\\\n *", " ", page.read_text())
    for found in COMMAND.finditer(text):
        yield " ".join((found[1] or found[2]).split())


@pytest.fixture(scope="module")
def installed() -> set[tuple[str, str]]:
    """Kind and name of what runs pods."""
    return {
        (document["kind"], document["metadata"]["name"])
        for file in INSTALLED
        if not file.name.endswith(".values.yaml")
        for document in yaml.safe_load_all(file.read_text())
        if document and document["kind"] in KINDS.values()
    }


def test_enough_commands_are_found_to_believe_that_all_are() -> None:
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
def test_such_a_command_says_in_which_namespace(page: Path) -> None:
    for command in commands(page):
        assert not OBJECT.search(command) or re.search(r" (-n|--namespace) \S", command), command
