"""The source distribution and the wheel, built by the package `build` with what release.lock pins.

The same sources give the same bytes in each directory, at each time and with each umask. The wheel is built from the
source distribution, so that a file that this lacks fails the build.
"""

import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.release.archives import pack, unpack
from tools.release.commands import run

PARALLEL: Final = Path(__file__).with_name("parallel.cfg")
"""Additional settings of setuptools: compile two modules at a time."""


def build_sdist(source: Path, out: Path, epoch: int) -> Path:
    """Build the source distribution of *source* into the new directory *out* and return its path. Raise ReleaseError.

    setuptools ignores SOURCE_DATE_EPOCH for it, so the archive is packed again by GNU tar and gzip.
    """
    made = _build("--sdist", source, out, environment_of(source, epoch))
    unpacked = out / "unpacked"
    unpack(made, unpacked)
    pack(unpacked, made, epoch)
    shutil.rmtree(unpacked)
    return made


def build_wheel(sdist: Path, work: Path, out: Path, epoch: int) -> Path:
    """Build the wheel of *sdist* in the new directory *work* into *out* and return its path. Raise ReleaseError."""
    unpack(sdist, work)
    (source,) = work.iterdir()
    return _build("--wheel", source, out, environment_of(source, epoch))


def environment_of(source: Path, epoch: int) -> Mapping[str, str]:
    """Return the environment of a build: that of cibuildwheel in pyproject.toml, and the time of the commit."""
    project = tomllib.loads((source / "pyproject.toml").read_text())
    return {
        **os.environ,
        **project["tool"]["cibuildwheel"]["environment"],
        "SOURCE_DATE_EPOCH": str(epoch),
        "DIST_EXTRA_CONFIG": str(PARALLEL),
    }


def _build(kind: str, source: Path, out: Path, environment: Mapping[str, str]) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", kind, f"--outdir={out}", str(source)]
    run(*command, environment=environment, umask=0o022)
    (made,) = out.glob("*.tar.gz" if kind == "--sdist" else "*.whl")
    return made
