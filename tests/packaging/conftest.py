"""The built wheel, and virtual environments with it."""

import fcntl
import functools
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel. The first test process of a run that needs it builds it for all."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes of this run
    with (folder / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := list(folder.glob("wheel/*.whl"))):
            made = [build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"), folder / "wheel")]
    return made[0]


def build_wheel(copy: Path, built: Path, out: Path) -> Path:
    """Build the wheel in *built* and move it to *out*, from a *copy* of the files that git does not ignore.

    So no compiled module of this tree is in it.
    """
    sources = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in filter(None, sources.decode().split("\0")):
        if name.startswith("tests/") or not (ROOT / name).exists():
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (copy / name).symlink_to((ROOT / name).readlink())
        else:
            (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(built), str(copy)], check=True, capture_output=True, timeout=150)
    (made,) = built.glob("*.whl")
    out.mkdir()
    return made.rename(out / made.name)


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that installs the wheel into a virtual environment and returns its Python.

    The environment has links to the installed packages of this one, except those that the caller names. Calls with the
    same names share it.
    """

    @functools.cache
    def installed(*without: str) -> Path:
        home = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(home)], check=True)
        (site,) = home.glob("lib/python3*/site-packages")
        for each in Path(sysconfig.get_path("purelib")).iterdir():
            if each.suffix != ".pth" and not each.name.startswith(("aad_pod_identity", "__editable__", *without)):
                (site / each.name).symlink_to(each)
        zipfile.ZipFile(wheel).extractall(site)
        return home / "bin" / "python3"

    return installed
