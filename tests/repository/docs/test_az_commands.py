"""The `az` commands in the documentation are those that the real Azure CLI has parsed, and their queries name fields
that Azure's resources have.
"""

import re
import shlex

import pytest
from azure.mgmt.containerservice import types
from azure.mgmt.msi.models import Identity

from tests.support.az_commands import of_pages, of_shell, record

RECORD = "run `.venv/bin/python -m tests.system.sdks.azure_cli --write`, which downloads the CLI, and check the result"


def test_every_command_is_one_that_the_azure_cli_has_parsed() -> None:
    recorded = record()
    assert of_pages() == sorted([*recorded["accepted"], *recorded["extension aks-preview"]]), RECORD


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('export A=$(az a show --name "$B" -o tsv)', [["a", "show", "--name", "VALUE", "-o", "tsv"]]),
        ('az a --id "$(az b show --query c)" | x', [["b", "show", "--query", "c"], ["a", "--id", "VALUE"]]),
        ("for a in b; do az c d; done", [["c", "d"]]),
        ("az a \\\n  --b 'c d'", [["a", "--b", "c d"]]),
        ("see az a", []),
        ('echo "(az a)"', []),
    ],
)
def test_commands_are_found_in_shell_lines(line: str, words: list[list[str]]) -> None:
    assert list(of_shell(line)) == words


def queries(command: str) -> set[str]:
    """Return the queries of the commands that begin with *command*."""
    words = [shlex.split(line) for line in record()["accepted"] if line.startswith(f"{command} ")]
    return {command_words[command_words.index("--query") + 1] for command_words in words if "--query" in command_words}


def test_queries_of_a_cluster_name_its_fields() -> None:
    queried = queries("aks show")
    assert {"nodeResourceGroup", "identityProfile.kubeletidentity.objectId"} <= queried
    for query in queried:
        field, *rest = query.split(".")
        assert field in types.ManagedClusterProperties.__annotations__, query
        if field == "identityProfile":
            _, field = rest
            assert field in types.UserAssignedIdentity.__annotations__, query
        elif rest:
            kind = re.search(r"\"(\w+)\"|'(\w+)'", repr(types.ManagedClusterProperties.__annotations__[field]))
            assert kind, query
            (name,) = filter(None, kind.groups())
            assert rest[0] in getattr(types, name).__annotations__, query


def test_queries_of_an_identity_name_its_fields() -> None:
    fields = {attribute["key"].removeprefix("properties.") for attribute in Identity._attribute_map.values()}
    queried = queries("identity show")
    assert {"id", "clientId", "principalId"} <= queried
    assert queried <= fields
