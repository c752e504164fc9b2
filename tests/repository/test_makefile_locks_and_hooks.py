"""The Makefile, the locks, the hooks and the pages agree on packages, commands and versions of Python."""

import re
import subprocess
import sys
import tomllib
from typing import Any, Final

import pytest
import yaml

from tests.support.checkout import ROOT

MAKEFILE: Final = (ROOT / "Makefile").read_text()
HOOKS: Final[list[dict[str, Any]]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock_entries(name: str) -> set[str]:
    """Return each package of the lock with its version, condition and hashes."""
    text = (ROOT / name).read_text().replace("\\\n", "")
    return {" ".join(line.split()) for line in text.splitlines() if "==" in line}


def test_sandbox_lock_is_a_part_of_requirements_lock() -> None:
    assert lock_entries("sandbox.lock") < lock_entries("requirements.lock"), "run: make lock"


def test_packages_of_tests_are_installed_before_the_machine_is_checked_for_real_nodes() -> None:
    check = "-m tests.system.node.machine"
    recipes = re.findall(r"^([a-z.-]+):[^=\n]*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    checked = {name: commands for name, commands in recipes if check in commands}
    assert {"test-node", ".node-programs"} <= checked.keys()
    for name, commands in checked.items():
        assert "$(PACKAGES) test\n" in commands.partition(check)[0], name


def test_each_hook_is_a_step_of_make_lint_with_the_locked_version() -> None:
    assert [hook["repo"] for hook in HOOKS] == ["local"], "so the lock determines the versions"
    commands, end, _ = MAKEFILE.partition("define LINT\n")[2].partition("\nendef\n")
    assert end
    steps = commands.replace("$(BIN)", ".venv/bin")
    for hook in HOOKS[0]["hooks"]:
        assert hook["language"] == "system"
        tools = re.findall(r"tools\.language|ruff check|ruff format|cython-lint|lint-imports|codespell", hook["entry"])
        assert tools, hook["id"]
        assert all(tool in steps for tool in tools), hook["id"]
        assert hook.get("pass_filenames", True) or hook["entry"] in steps.splitlines(), hook["id"]


def test_a_failure_prints_the_whole_output_and_keeps_the_exit_code() -> None:
    code = "import sys; print('Collecting one', flush=True); sys.exit('no such package')"
    command = [sys.executable, "-m", "tools.with_progress", "packages", "3", "^Collecting (\\w+)"]
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("Collecting one\nno such package\n")


def test_the_pages_and_the_classifiers_state_the_accepted_versions_of_python() -> None:
    accepted = re.fullmatch(r">=3\.(\d+)\.(\d+),<3\.(\d+)", PROJECT["requires-python"])
    assert accepted
    first, patch, end = map(int, accepted.groups())
    for page in ("README.md", "CONTRIBUTING.md", "docs/install-on-aks.md"):
        ranges = re.findall(r"Python (3\.[\d.]+ to 3\.\d+)", (ROOT / page).read_text())
        assert ranges == [f"3.{first}.{patch} to 3.{end - 1}"], page
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))
    assert list(map(int, named)) == list(range(first, end))


def build_images(*variables: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "image", "BASE=base@sha256:0", *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_images_are_for_the_platform_of_the_nodes() -> None:
    assert build_images("DOCKER=echo", "PLATFORM=linux/arm64").stdout.count(" --platform=linux/arm64 ") == 4
    assert "--platform" not in build_images("DOCKER=echo").stdout


def test_a_platform_in_the_environment_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM", "of another program")
    assert "--platform" not in build_images("DOCKER=echo").stdout


def test_a_failed_build_for_a_platform_names_the_missing_emulator() -> None:
    failed = build_images("DOCKER=false", "PLATFORM=linux/arm64")
    assert failed.returncode != 0
    assert "the build for linux/arm64 failed. If it reports 'exec format error', this machine cannot" in failed.stderr
    assert "qemu-user-static" in failed.stderr
    ordinary = build_images("DOCKER=false")
    assert ordinary.returncode != 0
    assert "exec format error" not in ordinary.stderr
