"""A call of podidctl imports the module of its command only: the others take most of the time of its start."""

import subprocess
import sys

import pytest

from podidctl.cli import COMMANDS, needed

USED = {"token": {COMMANDS["explain"]}}
"""The modules of other commands that a command uses."""
LIST_MODULES = "import sys; from podidctl.cli import main; main(sys.argv[1:]); print(*sorted(sys.modules))"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["explain", "pod", "web"], ["explain"]),
        (["plan"], ["plan"]),
        (["plan", "explain"], ["plan"]),
        ([], list(COMMANDS)),
        (["--help"], list(COMMANDS)),
        (["--help", "plan"], list(COMMANDS)),
        (["explan"], list(COMMANDS)),
    ],
    ids=" ".join,
)
def test_the_first_word_selects_the_command(words: list[str], names: list[str]) -> None:
    assert list(needed(words)) == names


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_module_of_another_one(name: str) -> None:
    command = [sys.executable, "-c", LIST_MODULES, name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    help_text, modules = done.stdout.strip().rsplit("\n", 1)
    assert f"podidctl {name}" in help_text
    assert set(modules.split()) & set(COMMANDS.values()) == {COMMANDS[name]} | USED.get(name, set())
