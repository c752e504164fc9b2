"""The real Azure CLI parses the commands of the documentation."""

import shlex

import pytest

from tests.repository.docs import az_commands
from tests.system.sdks import azure_cli

# The first test downloads the CLI: 150 packages with 0.5 GB.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_the_record_is_what_the_azure_cli_parses() -> None:
    commands = az_commands.of_pages()
    errors = azure_cli.refused([shlex.split(each) for each in commands])
    recorded = az_commands.record()
    assert recorded["azure-cli"] == azure_cli.VERSION
    assert recorded["accepted"] == [each for each, error in zip(commands, errors, strict=True) if not error]
    assert recorded["extension aks-preview"] == [each for each, error in zip(commands, errors, strict=True) if error]


def test_wrong_commands_are_refused() -> None:
    wrong = [["aks", "shw"], ["aks", "show", "--name", "a"], ["group", "show", "--name", "a", "--scope", "b"]]
    right = ["group", "show", "--name", "a"]
    *errors, none = azure_cli.refused([*wrong, right])
    assert all(errors)
    assert none == ""
