"""The hooks of .pre-commit-config.yaml run the tools of `make lint` on the files of a commit."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
HOOKS: Final[list[dict[str, Any]]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
WHOLE_TREE: Final = [each for each in HOOKS if not each.get("pass_filenames", True)]
"""Hooks that check all files. `make lint` runs each of them."""
FILES: Final = ["README.md", "_native/fair_queue.pxd", "_native/fair_queue.pyx", "_native/fair_queue.pyi", "nmi/cli.py"]
SUFFIXES: Final = {"pyi": ".pyi", "python": ".py"}


def files_of(hook: dict[str, Any]) -> list[str]:
    """Return those of FILES that pre-commit passes to *hook*."""
    suffixes = tuple(SUFFIXES[each] for each in hook.get("types_or", []))
    return [each for each in FILES if re.search(hook.get("files", ""), each) and each.endswith(suffixes or "")]


@pytest.mark.parametrize("hook", [each for each in HOOKS if each not in WHOLE_TREE], ids=lambda each: each["id"])
def test_a_hook_accepts_the_files_of_this_tree(hook: dict[str, Any]) -> None:
    files = files_of(hook)
    assert len(files) >= 2
    assert all((ROOT / each).is_file() for each in files)
    done = subprocess.run(
        [*shlex.split(hook["entry"]), *files], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
