"""A clone of this tree, and the dry run in it."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.checkout import ROOT
from tools.release.sources import copy

URL: Final = "https://git.example/owner/aad-pod-identity"


def make(clone: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in *clone*, without the variables of the make that runs these tests."""
    return run(clone, "make", *arguments, **variables)


def run(clone: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command,
        cwd=clone,
        env={**environment, "PROJECT_URL": URL, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the files of this tree that git does not ignore."""
    path = copy(ROOT, tmp_path_factory.mktemp("clone") / "aad-pod-identity")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], cwd=path, check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def dry_run(clone: Path) -> Path:
    """A clone after the dry run without images, on a machine on which only Python and a C compiler are installed."""
    done = make(clone, "release-dry-run", "WITHOUT=images", "TAG=")
    assert done.returncode == 0, done.stdout
    return clone


@pytest.fixture(scope="session")
def dist(dry_run: Path) -> Path:
    """The folder of the artifacts."""
    return dry_run / "build" / "release" / "dist"


def write_image(folder: Path, program: str, purls: Sequence[str]) -> None:
    """Write the archive of an image and its bill of materials."""
    bill = {
        "metadata": {"component": {"name": f"aad-pod-identity/{program}"}},
        "components": [{"purl": purl} for purl in purls],
    }
    (folder / f"{program}-amd64.cdx.json").write_text(json.dumps(bill))
    index = json.dumps({"manifests": [{"digest": f"sha256:{'a' * 64}"}]}).encode()
    with tarfile.open(folder / f"{program}-amd64.oci.tar", "w") as archive:
        entry = tarfile.TarInfo("index.json")
        entry.size = len(index)
        archive.addfile(entry, io.BytesIO(index))
