"""The built wheel, outside the source tree, where the sources cannot replace a file that it lacks: with all packages,
without those of the sandbox, and without those of any extra.
"""

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from podidentity.exits import installation
from tests.support.checkout import ROOT
from tools.release.sources import copy

pytestmark = pytest.mark.timeout(1800)  # the first test compiles _native

Install = Callable[..., Path]
STALE = "mic/removed_since.py"
EXTRAS = {
    "nmi": "nmi",
    "mic": "mic",
    "podidentity-demo": "demo",
    "podidctl": "podidctl",
    "kubectl-podidentity": "podidctl",
    "kubectl_complete-podidentity": "podidctl",
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
            made = [build(tmp_path_factory.mktemp("source"), folder / "wheel")]
    return made[0]


def build(copied: Path, folder: Path, **environment: str) -> Path:
    """Build the wheel of the sources, copied to *copied*, into *folder*. STALE is a file of an earlier build."""
    source = copy(ROOT, copied)
    shutil.rmtree(source / "tests")
    (source / "build" / "lib" / STALE).parent.mkdir(parents=True)
    (source / "build" / "lib" / STALE).touch()
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", folder, source], check=True, capture_output=True, env={**os.environ, **environment})
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Return a function that installs the wheel into a virtual environment and returns its Python.

    The environment has links to the installed packages of this one, except those that the caller names. Calls with the
    same names share it.
    """

    @functools.cache
    def installed(*without: str) -> Path:
        return environment(wheel, tmp_path_factory.mktemp("environment"), *without)

    return installed


def environment(wheel: Path, home: Path, *without: str) -> Path:
    """Install *wheel* into a virtual environment in *home*, as `install` describes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(home)], check=True)
    (site,) = home.glob("lib/python3*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and not path.name.startswith(("aad_pod_identity", "__editable__", *without)):
            (site / path.name).symlink_to(path)
    return home / "bin" / "python3"


def run(python: Path, folder: Path, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in *folder* by *python*, which does not import from the folder."""
    return subprocess.run(
        [str(python), "-P", "-c", code, *arguments],
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("program", ["nmi", "mic", "podidctl"])
def test_the_programs_run_outside_the_source_tree(wheel: Path, program: str, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys, {program}.cli as cli, _native.lane as lane; print(lane.__file__); sys.exit(cli.main())"
    done = run(Path(sys.executable), tmp_path, code, "--version", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    place, version = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert version.startswith(f"{program} ")


@pytest.mark.parametrize("program", ["nmi", "mic"])
def test_help_finds_its_texts_in_a_wheel(wheel: Path, program: str, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys, {program}.cli as cli; sys.exit(cli.main())"
    printed = run(Path(sys.executable), tmp_path, code, "--help", PYTHONPATH=str(tmp_path / "site"))
    assert "Path of a kubeconfig." in " ".join(printed.stdout.split()), printed.stderr


EVERY_MODULE = """
import importlib, pkgutil, mic, podidctl, podidentity
for package in (mic, podidctl, podidentity):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(podidctl.__file__)
"""


def test_without_a_compiler_podidctl_and_mic_are_complete_and_nmi_names_the_cause(tmp_path: Path) -> None:
    wheel = build(tmp_path / "source", tmp_path / "wheel", NATIVE_OMIT="1", CC="/nonexistent")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert STALE not in zipfile.ZipFile(wheel).namelist()
    python = environment(wheel, tmp_path / "environment")
    done = run(python, tmp_path, EVERY_MODULE)
    assert done.stdout.startswith(str(tmp_path)), done.stderr
    for program, flags, code, cause in (
        ("nmi", ["--node=n", "--redirect=none"], 1, "nmi: the compiled module _native."),
        ("podidctl", ["sandbox", "demo"], 1, "podidctl: the sandbox runs NMI, whose compiled modules"),
    ):
        text = f"import sys, {program}.cli as cli; sys.exit(cli.main())"
        done = run(python, tmp_path, text, *flags)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert done.stderr.startswith(cause)
    (native,) = tmp_path.glob("environment/lib/python3*/site-packages/_native")
    shutil.rmtree(native)  # as in podidctl's image
    image = run(python, tmp_path, text, *flags)
    assert (image.returncode, image.stderr) == (done.returncode, done.stderr)


def test_a_failed_compilation_names_the_way_without_a_compiler(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        build(tmp_path / "source", tmp_path / "wheel", CC="/nonexistent")
    assert "set NATIVE_OMIT=1 to install it without" in failed.value.stderr.decode()


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of the installed packages that *requirements* need, with those that these need."""
    todo, names = [*requirements], set[str]()
    while todo:
        needed = Requirement(todo.pop())
        name = canonicalize_name(needed.name)
        if name in names or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        with contextlib.suppress(PackageNotFoundError):  # one for another platform
            todo += distribution(name).requires or []
            names.add(name)
    return names


def beyond_the_base() -> set[str]:
    """Return the folders and modules of all installed packages that the wheel without extras does not need."""
    base = closure(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {"aiohttp", "msgspec", "uvloop"} <= base
    assert not base & {"azure-identity", "httptools", "requests", "typer"}
    others = [distribution for distribution in distributions() if canonicalize_name(distribution.name) not in base]
    return {file.parts[0] for distribution in others for file in distribution.files or () if file.parts[0] != ".."}


@pytest.mark.nightly
@pytest.mark.parametrize("program", sorted(EXTRAS))
def test_a_program_without_its_extra_names_it_in_one_line(install: Install, program: str, tmp_path: Path) -> None:
    python = install(*sorted(beyond_the_base()))
    (scripts,) = python.parents[1].glob("lib/python3*/site-packages/aad_pod_identity*.dist-info/entry_points.txt")
    (target,) = re.findall(rf"^{program} = (\S+)$", scripts.read_text(), re.MULTILINE)
    module, function = target.split(":")
    code = f"import sys; from {module} import {function} as run; sys.exit(run())"
    flags = {"nmi": ["--node=n", "--redirect=none"], "podidctl": ["doctor"], "kubectl-podidentity": ["doctor"]}
    done = run(python, tmp_path, code, *flags.get(program, []), MIC_POD_NAMESPACE="default")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f" is missing: {installation(EXTRAS[program])}")
    assert done.returncode == 2
    assert done.stdout == ""


def podidctl(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, podidctl.cli as cli; print(cli.__file__, file=sys.stderr); sys.exit(cli.main())"
    return run(python, folder, code, *arguments)


@pytest.mark.nightly
def test_the_sandbox_demo_succeeds_from_an_installed_wheel(install: Install, tmp_path: Path) -> None:
    python = install()
    done = podidctl(python, tmp_path, "sandbox", "demo", "--loopback", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(python.parents[1])), "podidctl of the checkout"
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ok"]
    assert len(summary["lines"]) == 4


@pytest.mark.nightly
def test_without_the_extra_sandbox_only_the_sandbox_commands_fail(install: Install, tmp_path: Path) -> None:
    python = install("httptools", "iptc", "python_iptables", "requests", "cryptography")
    for command in (["up"], ["demo"], ["exec", "demo", "--", "true"]):
        done = podidctl(python, tmp_path, "sandbox", *command)
        (line,) = done.stderr.splitlines()[1:]
        assert done.returncode == 1
        assert line == (
            "podidctl: the sandbox needs cryptography, httptools, iptc, requests, not installed here: "
            f"{installation('sandbox')}"
        )
    assert "sandbox" in podidctl(python, tmp_path, "--help").stdout
    for command in (["explain"], ["doctor"], ["plan"], ["token"], ["migrate", "from-reference"]):
        done = podidctl(python, tmp_path, *command, "--help")
        assert done.returncode == 0, done.stderr


@pytest.mark.nightly
def test_the_manifests_in_the_wheel_are_those_of_deploy(install: Install) -> None:
    (site,) = install().parents[1].glob("lib/python3*/site-packages")
    packaged = site / "podidentity_sandbox" / "manifests"
    for pattern, deployed in (("crds/*.yaml", "crds"), ("demo/*.yaml", "demo"), ("deployment-rbac.yaml", "manifests")):
        files = {file.name: file.read_bytes() for file in packaged.glob(pattern)}
        expected = (ROOT / "deploy" / deployed).glob(Path(pattern).name)
        assert files == {file.name: file.read_bytes() for file in expected}
        assert files
