"""The GitHub workflows and the development container run targets that the Makefile has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.nightly.mutants.entries import tracked
from tests.support.checkout import ROOT
from tests.support.testplane import up

WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").iterdir())
TARGETS: Final = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {".venv/.built"}


def targets_of(command: str) -> Iterator[str]:
    """Yield the targets of each call of make in *command*."""
    for arguments in re.findall(r"\bmake ((?:[\w./=-]+ ?)+)", command):
        yield from (argument for argument in arguments.split() if "=" not in argument)


def commands_of(workflow: Path) -> Iterator[str]:
    """Yield the commands of *workflow*, also those of its matrix."""
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    for job in jobs.values():
        for row in job.get("strategy", {}).get("matrix", {}).get("include", []):
            yield row["command"]
        for step in job["steps"]:
            yield step.get("run", "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_of_the_makefile_in_a_stated_time(workflow: Path) -> None:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    assert all("timeout-minutes" in job for job in jobs.values())
    commands = [command for command in commands_of(workflow) if "apt-get" not in command]
    targets = {target for command in commands for target in targets_of(command)}
    assert targets <= TARGETS
    assert targets or ".ci/run" in commands


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files, without .venv and build/."""
    clone = tmp_path_factory.mktemp("clone")
    for name in tracked():
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name, follow_symlinks=False)
    return clone


CALLS_OF_MAKE: Final = sorted(
    {
        call
        for text in (
            *(command for path in WORKFLOWS for command in commands_of(path)),
            (ROOT / ".ci" / "run").read_text(),
        )
        for call in re.findall(r"^ *make ((?:[\w./=-]+ ?)+)$", text, re.MULTILINE)
    }
)


@pytest.mark.parametrize("call", CALLS_OF_MAKE)
def test_a_call_of_make_installs_before_it_runs_anything_in_a_fresh_clone(fresh_clone: Path, call: str) -> None:
    assert {"check", "fuzz", "mutants", "JOBS=2 lint test test-all"} <= set(CALLS_OF_MAKE)
    command = ["make", "--dry-run", *call.split()]
    done = subprocess.run(command, cwd=fresh_clone, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    if used := [at for at, line in enumerate(lines) if re.match(r"(\w+=\S+ )*\.venv/bin/(?!pip)", line)]:
        installed = [at for at, line in enumerate(lines) if "touch .venv/.built" in line]
        assert len(installed) == 1
        assert installed[0] < used[0], lines[used[0]]


@pytest.mark.plane
def test_actionlint_accepts_the_workflows() -> None:
    command: list[str | Path] = [up.tool("actionlint"), "-no-color", *WORKFLOWS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_development_container_is_prepared_by_targets_of_the_makefile() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    config = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    targets = set(targets_of(config["postCreateCommand"]))
    assert targets == {"setup", ".venv/.built"}
    assert targets <= TARGETS
