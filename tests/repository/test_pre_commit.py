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
FILES: Final = ["README.md", "_native/fair_queue.pxd", "_native/fair_queue.pyx", "_native/fair_queue.pyi", "nmi/cli.py"]
SUFFIXES: Final = {"pyi": ".pyi", "python": ".py"}


def files_of(hook: dict[str, Any]) -> list[str]:
    """Return those of FILES that pre-commit passes to *hook*."""
    if not hook.get("pass_filenames", True):
        return []
    suffixes = tuple(SUFFIXES[each] for each in hook.get("types_or", []))
    return [each for each in FILES if re.search(hook.get("files", ""), each) and each.endswith(suffixes or "")]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda each: each["id"])
def test_a_hook_accepts_the_files_of_this_tree(hook: dict[str, Any]) -> None:
    files = files_of(hook)
    assert len(files) >= 2 or not hook.get("pass_filenames", True)
    assert all((ROOT / each).is_file() for each in files)
    done = subprocess.run(
        [*shlex.split(hook["entry"]), *files], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_hooks_are_local_so_that_the_lock_determines_their_versions() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [each["repo"] for each in config["repos"]] == ["local"]
    assert all(each["language"] == "system" for each in HOOKS)


def test_each_hook_is_a_step_of_make_lint() -> None:
    (steps,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for hook in HOOKS:
        tools = re.findall(r"tools\.language|ruff check|ruff format|cython-lint|lint-imports|codespell", hook["entry"])
        assert tools, hook["id"]
        assert all(each in steps for each in tools), hook["id"]
