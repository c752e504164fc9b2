"""The built wheel, outside the source tree, where the sources cannot replace a file that it lacks: with all packages,
without those of the sandbox, and with the base dependencies only.
"""

import fcntl
import functools
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

Install = Callable[..., Path]
EXTRAS = {
    "nmi": "nmi",
    "mic": "mic",
    "podidentity-demo": "demo",
    "podidctl": "podidctl",
    "kubectl-podidentity": "podidctl",
}


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
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Return a function that installs the wheel into a virtual environment and returns its Python.

    The environment has links to the installed packages of this one, except those that the caller names. Calls with the
    same names share it.
    """

    @functools.cache
    def installed(*without: str) -> Path:
        site = environment(wheel, tmp_path_factory.mktemp("environment"))
        for each in Path(sysconfig.get_path("purelib")).iterdir():
            if each.suffix != ".pth" and not each.name.startswith(("aad_pod_identity", "__editable__", *without)):
                (site / each.name).symlink_to(each)
        return site.parents[2] / "bin" / "python3"

    return installed


def environment(wheel: Path, home: Path) -> Path:
    """Make a virtual environment in *home* with the *wheel* only. Return the folder of its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(home)], check=True)
    (site,) = home.glob("lib/python3*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def run(python: Path, folder: Path, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in *folder* by *python*, which does not import from the folder."""
    return subprocess.run(
        [str(python), "-P", "-c", code, *arguments],
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", ["nmi", "mic", "podidctl"])
def test_the_programs_run_outside_the_source_tree(wheel: Path, program: str, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys, {program}.cli as cli, _native.lane as lane; print(lane.__file__); sys.exit(cli.main())"
    done = run(Path(sys.executable), tmp_path, code, "--version", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    place, version = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert version.startswith(f"{program} ")


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
    site = environment(wheel, tmp_path_factory.mktemp("base"))
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
    return site.parents[2] / "bin" / "python3"


@pytest.mark.nightly
@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", sorted(EXTRAS))
def test_a_program_without_its_extra_names_it_in_one_line(python: Path, program: str, tmp_path: Path) -> None:
    (scripts,) = python.parents[1].glob("lib/python3*/site-packages/aad_pod_identity*.dist-info/entry_points.txt")
    (target,) = re.findall(rf"^{program} = (\S+)$", scripts.read_text(), re.MULTILINE)
    module, function = target.split(":")
    code = f"import sys; from {module} import {function} as run; sys.exit(run(sys.argv[1:]))"
    flags = {"nmi": ["--node=n", "--redirect=none"], "podidctl": ["doctor"], "kubectl-podidentity": ["doctor"]}
    done = run(python, tmp_path, code, *flags.get(program, []), MIC_POD_NAMESPACE="default")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"install it with pip install 'aad-pod-identity[{EXTRAS[program]}]'")
    assert done.returncode == 2
    assert done.stdout == ""


def podidctl(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, podidctl.cli as cli; print(cli.__file__, file=sys.stderr); sys.exit(cli.main())"
    return run(python, folder, code, *arguments)


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_the_sandbox_demo_succeeds_from_an_installed_wheel(install: Install, tmp_path: Path) -> None:
    python = install()
    done = podidctl(python, tmp_path, "sandbox", "demo", "--loopback", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(python.parents[1])), "podidctl of the checkout"
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ok"]
    assert len(summary["lines"]) == 4


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_without_the_extra_sandbox_only_the_sandbox_commands_fail(install: Install, tmp_path: Path) -> None:
    python = install("httptools", "iptc", "python_iptables", "requests", "cryptography")
    for command in (["up"], ["demo"], ["exec", "demo", "--", "true"]):
        done = podidctl(python, tmp_path, "sandbox", *command)
        (line,) = done.stderr.splitlines()[1:]
        assert done.returncode == 1
        assert line == (
            "podidctl: the sandbox needs cryptography, httptools, iptc, requests, not installed here: "
            "pip install 'aad-pod-identity[sandbox]'"
        )
    assert "sandbox" in podidctl(python, tmp_path, "--help").stdout
    for command in (["explain"], ["doctor"], ["plan"], ["token"], ["migrate", "from-reference"]):
        done = podidctl(python, tmp_path, *command, "--help")
        assert done.returncode == 0, done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("packaged", "deployed"),
    [("crds/*.yaml", "crds"), ("demo/*.yaml", "demo"), ("deployment-rbac.yaml", "manifests")],
    ids=["definitions", "demo", "permissions"],
)
def test_the_manifests_in_the_wheel_are_those_of_deploy(install: Install, packaged: str, deployed: str) -> None:
    (site,) = install().parents[1].glob("lib/python3*/site-packages")
    files = [*(site / "podidentity_sandbox" / "manifests").glob(packaged)]
    expected = (ROOT / "deploy" / deployed).glob(Path(packaged).name)
    assert files
    assert {each.name: each.read_bytes() for each in files} == {each.name: each.read_bytes() for each in expected}
