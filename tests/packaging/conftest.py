"""The built wheel, and virtual environments with it."""

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
    """The wheel, from a copy without the files that git ignores, so that no compiled module of this tree is in it."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
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
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)]
    subprocess.run(build, check=True, capture_output=True, timeout=150)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Install the wheel into a fresh virtual environment; returns its Python.

    The environment has links to the installed packages of this one, except those that the caller names.
    """

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
