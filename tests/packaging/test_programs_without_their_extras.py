"""The built wheel with the base dependencies only: each program names the extra to install in one line."""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly
EXTRAS = {
    "nmi": "nmi",
    "mic": "mic",
    "podidentity-demo": "demo",
    "podidctl": "podidctl",
    "kubectl-podidentity": "podidctl",
}


def base_dependencies(requirements: list[str], found: set[str]) -> None:
    """Add the names of the installed distributions that *requirements* need, without extras, to *found*."""
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")
        if "extra ==" in requirement or name in found:
            continue
        try:
            needed = distribution(name).requires
        except PackageNotFoundError:
            continue  # for another platform or version of Python
        found.add(name)
        base_dependencies(needed or [], found)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and its base dependencies."""
    home = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(home)], check=True)
    (site,) = home.glob("lib/python3*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (metadata,) = site.glob("*.dist-info/METADATA")
    prefix = "Requires-Dist: "
    requirements = [line.removeprefix(prefix) for line in metadata.read_text().splitlines() if line.startswith(prefix)]
    names: set[str] = set()
    base_dependencies(requirements, names)
    assert {"aiohttp", "msgspec", "uvloop"} <= names
    assert not names & {"azure-identity", "httptools", "requests", "typer"}
    for name in names:
        for file in distribution(name).files or ():
            top = file.parts[0]
            target = Path(str(distribution(name).locate_file(top)))
            if top != ".." and not (site / top).exists():
                (site / top).symlink_to(target)
    return home / "bin" / "python3"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", sorted(EXTRAS))
def test_a_program_without_its_extra_names_it_in_one_line(python: Path, program: str, tmp_path: Path) -> None:
    (scripts,) = python.parents[1].glob("lib/python3*/site-packages/aad_pod_identity*.dist-info/entry_points.txt")
    (target,) = re.findall(rf"^{program} = (\S+)$", scripts.read_text(), re.MULTILINE)
    module, function = target.split(":")
    code = f"import sys; from {module} import {function} as run; sys.exit(run(sys.argv[1:]))"
    flags = {"nmi": ["--node=n", "--redirect=none"], "podidctl": ["doctor"], "kubectl-podidentity": ["doctor"]}
    done = subprocess.run(
        [str(python), "-P", "-c", code, *flags.get(program, [])],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "MIC_POD_NAMESPACE": "default"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"install it with pip install 'aad-pod-identity[{EXTRAS[program]}]'")
    assert done.returncode == 2
    assert done.stdout == ""
