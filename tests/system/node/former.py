"""An earlier version of this project: its chart, and its images, which are built from its commit.

FORMER names the version by a tag or a commit. Without it the newest tag before HEAD counts.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from podidentity.version import VERSION
from tests.support.checkout import ROOT
from tests.system.node.bed import RELEASE
from tests.system.node.processes import BedError

VARIABLE: Final = "FORMER"
WITHOUT_TAGS: Final = "f3f836819282d1086b8fa5966f1255078584f8a5"
"""The version while the repository has no tag: a commit of 2026-11-28 whose NMI has a handover."""
FOLDER: Final = ROOT / "build" / "former"


@dataclass(frozen=True, slots=True)
class Former:
    """The earlier version of a *commit*. Its sources and images are in *folder*."""

    name: str
    commit: str
    folder: Path
    version: str

    @property
    def chart(self) -> Path:
        return self.folder / "deploy" / "charts" / RELEASE

    @property
    def images(self) -> Path:
        return self.folder / "build" / "images"

    @property
    def tag(self) -> str:
        """The tag of its images on a test bed: another than that of the present ones."""
        return self.version if self.version != VERSION else f"{self.version}-{self.commit[:7]}"

    def values(self) -> Mapping[str, Any]:
        """Return the values that only its release has: the tags, if it has the version of the present one."""
        if self.tag == self.version:
            return {}
        return {"nmi": {"tag": self.tag}, "mic": {"tag": self.tag}}


def former(environment: Mapping[str, str] = os.environ) -> Former:
    """Return the earlier version with its images, which are built if they do not exist.

    That takes eight to fifteen minutes. Raise BedError if the repository does not have the commit, or the build fails.
    """
    name = environment.get(VARIABLE, "") or newest_tag(ROOT) or WITHOUT_TAGS
    commit = commit_of(ROOT, name)
    folder = FOLDER / commit
    if not (folder / ".git").exists():
        check_out(ROOT, commit, folder)
    # Its own script, because the present one may build images that its sources do not have.
    done = subprocess.run([str(folder / "tools" / "local-images"), "once"], cwd=folder, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise BedError(f"the images of {name} were not built; see {folder / 'build' / 'images' / 'log'}")
    return Former(name if name != commit else name[:7], commit, folder, version_of(folder))


def newest_tag(repository: Path) -> str:
    """Return the newest tag of a release before HEAD; empty if there is none."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD^"]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False).stdout.strip()


def commit_of(repository: Path, name: str) -> str:
    """Return the commit of a tag, or of a commit's abbreviation. Raise BedError if *repository* does not have it."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedError(
            f"this repository has no {name}, whose images an upgrade starts from; fetch its whole history and tags "
            f"(git fetch --unshallow --tags), or set {VARIABLE} to another tag or commit"
        )
    return done.stdout.strip()


def check_out(repository: Path, commit: str, folder: Path) -> None:
    """Make *folder* a clone of *repository* with the files of *commit*. Raise CalledProcessError."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(part)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=part, check=True)
    part.rename(folder)


def version_of(folder: Path) -> str:
    """Return the version that the sources in *folder* state. Raise BedError if they state none."""
    text = (folder / "podidentity" / "version.py").read_text()
    found = re.search(r'^VERSION(?:: \w+)? = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise BedError(f"podidentity/version.py in {folder} states no version")
    return found[1]
