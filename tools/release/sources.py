"""The files of a checkout that a release is built from."""

import shutil
from pathlib import Path

from tools.release.commands import run


def commit(tree: Path) -> str:
    """Return the name of the checked-out commit."""
    return run("git", "rev-parse", "HEAD", cwd=tree).strip()


def commit_time(tree: Path) -> int:
    """Return the time of the checked-out commit in seconds since 1970: SOURCE_DATE_EPOCH of its artifacts."""
    return int(run("git", "log", "-1", "--format=%ct", cwd=tree))


def copy(tree: Path, to: Path) -> Path:
    """Copy the files of *tree* that git does not ignore to *to*, and return *to*. So no compiled module is copied."""
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=tree)
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_symlink() or (tree / name).exists():  # a deleted file is listed until the commit
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, to / name, follow_symlinks=False)
    return to
