"""A clone of this tree, and the dry run in it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.nightly.mutants.entries import tracked
from tests.support.checkout import ROOT

URL: Final = "https://git.example/owner/aad-pod-identity"


@dataclass(frozen=True, slots=True)
class DryRun:
    """A clone in which the dry run has passed."""

    clone: Path
    output: str

    @property
    def dist(self) -> Path:
        """The folder of the artifacts."""
        return self.clone / "build" / "release" / "dist"

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run make in the clone."""
        return make(self.clone, *arguments)


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in *clone*, without the variables of the make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=clone,
        env={**environment, "PROJECT_URL": URL},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the tracked files of this tree as they are, and nothing else."""
    path = tmp_path_factory.mktemp("clone") / "aad-pod-identity"
    for name in tracked():
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name, follow_symlinks=False)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], cwd=path, check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def dry_run(clone: Path) -> DryRun:
    """The dry run without the images, from a clone on a machine on which only Python and a C compiler are installed."""
    done = make(clone, "release-dry-run", "WITHOUT=images", "TAG=")
    assert done.returncode == 0, done.stdout
    return DryRun(clone, done.stdout)
