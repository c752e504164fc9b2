"""The files of a checkout that a release is built from."""

import shutil
import subprocess
from pathlib import Path


def git(tree: Path, *arguments: str) -> str:
    """Return the output of a git command in *tree*. Raise CalledProcessError."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout.strip()


def commit(tree: Path) -> str:
    """Return the name of the checked-out commit."""
    return git(tree, "rev-parse", "HEAD")


def commit_time(tree: Path) -> int:
    """Return the time of the checked-out commit in seconds since 1970: SOURCE_DATE_EPOCH of its artifacts."""
    return int(git(tree, "log", "-1", "--format=%ct"))


def copy(tree: Path, to: Path) -> Path:
    """Copy the files of *tree* that git does not ignore to *to*, and return *to*. So no compiled module is copied."""
    listed = git(tree, "ls-files", "-z", "-co", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_symlink() or (tree / name).exists():  # a deleted file is listed until the commit
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, to / name, follow_symlinks=False)
    return to
