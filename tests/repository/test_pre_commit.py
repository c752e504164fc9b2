"""The hooks of .pre-commit-config.yaml run the tools of `make lint` on the files of a commit."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
HOOKS: Final[list[dict[str, Any]]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
WHOLE_TREE: Final = [each for each in HOOKS if not each.get("pass_filenames", True)]
"""Hooks that check all files. `make lint` runs each of them."""


@pytest.mark.parametrize("hook", WHOLE_TREE, ids=lambda each: each["id"])
def test_a_hook_without_files_is_a_command_of_make_lint(hook: dict[str, Any]) -> None:
    assert hook["entry"] in lint_commands()


def test_all_hooks_are_local_so_that_the_lock_determines_their_versions() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [each["repo"] for each in config["repos"]] == ["local"]
    assert all(each["language"] == "system" for each in HOOKS)


def test_each_hook_is_a_step_of_make_lint() -> None:
    steps = "\n".join(lint_commands())
    for hook in HOOKS:
        tools = re.findall(r"tools\.language|ruff check|ruff format|cython-lint|lint-imports|codespell", hook["entry"])
        assert tools, hook["id"]
        assert all(each in steps for each in tools), hook["id"]


def lint_commands() -> list[str]:
    """Return the commands of `make lint`."""
    _, _, rest = (ROOT / "Makefile").read_text().partition("define LINT\n")
    commands, end, _ = rest.partition("\nendef\n")
    assert end
    return commands.replace("$(BIN)", ".venv/bin").splitlines()
