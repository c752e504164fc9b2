"""Archives whose bytes depend only on the names and the contents of their files."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from tools.release.commands import ReleaseError, run


def pack(folder: Path, to: Path, epoch: int) -> None:
    """Write what is in *folder* to the tar archive *to*, sorted, with the time *epoch*, without owners.

    An archive whose name ends with .gz is compressed.
    """
    names = sorted(path.name for path in folder.iterdir())
    tar = ["tar", "--create", "--format=ustar", "--sort=name", f"--mtime=@{epoch}", "--owner=0", "--group=0"]
    tar += ["--numeric-owner", "--mode=u=rwX,go=rX", f"--directory={folder}", f"--file={to}"]
    tar += [*(["--use-compress-program=gzip -9 -n"] if to.suffix == ".gz" else []), "--", *names]
    run(*tar)


def unpack(archive: Path, to: Path) -> None:
    """Unpack a tar archive, also a compressed one, into the new directory *to*.

    Raise ReleaseError if it contains anything but files and folders, or a name that leads out of *to*.
    """
    to.mkdir(parents=True)
    with tarfile.open(archive) as opened:
        for member in opened:
            # TarFile.extractall has a filter for this only from Python 3.11.4 on; Debian 12 has 3.11.2.
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise ReleaseError(f"cannot unpack {archive}: {member.name} is outside its folder")
            content = opened.extractfile(member) if member.isfile() else None
            if content is None and not member.isdir():
                raise ReleaseError(f"cannot unpack {archive}: {member.name} is neither a file nor a folder")
            path = to / name
            (path.parent if content else path).mkdir(parents=True, exist_ok=True)
            if content:
                with content, path.open("xb") as file:
                    shutil.copyfileobj(content, file)
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
