"""The GitHub workflows and the development container run targets that the Makefile has."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.testplane import up

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").iterdir())
TARGETS: Final = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {".venv/.built"}


def targets_of(command: str) -> Iterator[str]:
    """Yield the targets of each call of make in *command*."""
    for arguments in re.findall(r"\bmake ((?:[\w./=-]+ ?)+)", command):
        yield from (each for each in arguments.split() if "=" not in each)


def commands_of(workflow: Path) -> Iterator[str]:
    """Yield the commands of *workflow*, also those of its matrix."""
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    for job in jobs.values():
        for row in job.get("strategy", {}).get("matrix", {}).get("include", []):
            yield row["command"]
        for step in job["steps"]:
            yield step.get("run", "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda each: each.stem)
def test_a_workflow_runs_targets_of_the_makefile(workflow: Path) -> None:
    commands = [each for each in commands_of(workflow) if "apt-get" not in each]
    targets = {target for each in commands for target in targets_of(each)}
    assert targets <= TARGETS
    assert targets or ".ci/run" in commands


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda each: each.stem)
def test_each_job_of_a_workflow_ends_in_a_stated_time(workflow: Path) -> None:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    assert all("timeout-minutes" in each for each in jobs.values())


@pytest.mark.plane
def test_actionlint_accepts_the_workflows() -> None:
    done = subprocess.run(
        [up.tool("actionlint"), "-no-color", *WORKFLOWS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_development_container_is_prepared_by_targets_of_the_makefile() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    config = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    targets = set(targets_of(config["postCreateCommand"]))
    assert targets == {"setup", ".venv/.built"}
    assert targets <= TARGETS
