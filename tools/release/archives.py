"""Archives whose bytes depend only on the names and the contents of their files."""

import subprocess
import tarfile
from pathlib import Path


def pack(folder: Path, to: Path, epoch: int) -> None:
    """Write what is in *folder* to the tar archive *to*, sorted, with the time *epoch*, without owners."""
    names = sorted(each.name for each in folder.iterdir())
    tar = ["tar", "--create", "--format=ustar", "--sort=name", f"--mtime=@{epoch}", "--owner=0", "--group=0"]
    tar += ["--numeric-owner", "--mode=u=rwX,go=rX", f"--directory={folder}", f"--file={to}", "--", *names]
    subprocess.run(tar, check=True, capture_output=True)


def unpack(archive: Path, to: Path) -> None:
    """Unpack a tar archive, also a compressed one, into the new directory *to*."""
    to.mkdir(parents=True)
    with tarfile.open(archive) as opened:
        opened.extractall(to, filter="data")
