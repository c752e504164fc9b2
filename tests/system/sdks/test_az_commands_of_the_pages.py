"""The real Azure CLI parses the commands of the documentation."""

import pytest

from tests.support import az_commands
from tests.system.sdks import azure_cli

# The first test downloads the CLI: 150 packages with 0.5 GB.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_the_record_is_what_the_azure_cli_parses() -> None:
    assert az_commands.record() == azure_cli.parsed(), "run: python -m tests.system.sdks.azure_cli --write"


def test_wrong_commands_are_refused() -> None:
    wrong = [["aks", "shw"], ["aks", "show", "--name", "a"], ["group", "show", "--name", "a", "--scope", "b"]]
    right = ["group", "show", "--name", "a"]
    *errors, none = azure_cli.refused([*wrong, right])
    assert all(errors)
    assert none == ""
