"""The locked packages and the packages of this project that `install_program.py` installs in each image."""

import base64
import csv
import hashlib
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.docker import install_program
from deploy.docker.install_program import (
    COMMANDS,
    OF_ONE_PROGRAM,
    PACKAGES,
    remove_other_programs,
    remove_unused,
    requirements,
)
from tests.support.checkout import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = {
    (canonicalize_name(name), version)
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ \\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
}
OURS = {"_native", "podidentity", "podidentity_demo", "nmi", "mic", "podidctl"}


def wheel_metadata() -> bytes:
    """Return the dependencies in pyproject.toml as setuptools writes them into a wheel."""
    lines = [f"Requires-Dist: {dependency}" for dependency in PROJECT["dependencies"]]
    for extra, needed in PROJECT["optional-dependencies"].items():
        lines += [f"Requires-Dist: {requirement}; extra == '{extra}'" for requirement in needed]
    return "\n".join(["Metadata-Version: 2.4", "Name: aad-pod-identity", *lines, "", ""]).encode()


def applying(lines: list[str], extras: set[str]) -> list[Requirement]:
    """Return the requirements that apply on this machine with *extras*."""
    return [
        requirement
        for requirement in map(Requirement, lines)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})
    ]


def closure(program: str) -> set[tuple[str, str]]:
    """Return all packages that *program* needs, from the metadata of the packages in this environment."""
    todo = applying(requirements(program, wheel_metadata()), set())
    seen: dict[tuple[str, frozenset[str]], str] = {}
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key not in seen:
            distribution = metadata.distribution(wanted.name)
            seen[key] = distribution.version
            todo += applying(distribution.requires or [], wanted.extras)
    return {(name, version) for (name, _), version in seen.items()}


MANAGEMENT = {"azure-mgmt-compute", "azure-mgmt-core"}
FOR_PEOPLE = {"typer", "rich", "pyyaml"}
FOR_DEVELOPERS = {"pytest", "mypy", "ruff", "hypothesis", "cython", "setuptools"}


@pytest.mark.parametrize(
    ("program", "needed", "refused"),
    [
        ("nmi", {"azure-core", "azure-identity"}, MANAGEMENT | FOR_PEOPLE),
        ("mic", MANAGEMENT, FOR_PEOPLE),
        ("podidctl", MANAGEMENT | FOR_PEOPLE | {"aiohttp"}, {"python-iptables", "httptools", "jinja2", "xstatic-d3"}),
        (
            "demo",
            {"azure-identity", "azure-core", "msal", "requests"},
            MANAGEMENT | FOR_PEOPLE | {"aiohttp", "uvloop", "prometheus-client", "msgspec"},
        ),
    ],
)
def test_an_image_gets_the_locked_packages_of_its_program_only(
    program: str, needed: set[str], refused: set[str]
) -> None:
    assert closure(program) <= LOCKED
    packages = {name for name, _ in closure(program)}
    assert len(packages) > 10
    assert needed <= packages
    assert not packages & (refused | FOR_DEVELOPERS | {"kubernetes"})
    assert {name for name in packages if name.startswith("azure-mgmt")} <= MANAGEMENT
    assert program != "nmi" or {name for name in packages if name.startswith("azure")} == needed


def test_the_kubeconfig_reader_is_an_extra_that_no_image_installs() -> None:
    extras = PROJECT["optional-dependencies"]
    assert [Requirement(requirement).name for requirement in extras["kubeconfig"]] == ["kubernetes"]
    assert {extra for requirement in extras["podidctl"] for extra in Requirement(requirement).extras} >= {
        "kubeconfig",
        "mic",
    }


def imported(package: str) -> set[str]:
    """Return the packages of this project that the modules of *package* import, compiled ones included."""
    modules = set()
    for file in (ROOT / package).rglob("*.py*"):
        if file.suffix in {".py", ".pyx"}:
            modules |= set(re.findall(r"^\s*(?:from|import|cimport) (\w+)", file.read_text(), re.MULTILINE))
    return modules & OURS


WITHOUT: dict[str, set[str]] = {"podidctl": {"_native"}}
"""Imported only by modules of NMI that the program does not import, as a contract of import-linter requires."""


@pytest.mark.parametrize("program", PACKAGES)
def test_a_programs_packages_are_those_that_it_imports(program: str) -> None:
    reached = {PROJECT["scripts"][COMMANDS[program]].partition(".")[0]}
    while more := {module for package in reached for module in imported(package)} - reached:
        reached |= more
    assert reached - WITHOUT.get(program, set()) == PACKAGES[program]


CORE_METADATA = b"""Metadata-Version: 2.4
Requires-Dist: base<2; python_version < "3.12"
Requires-Dist: one>=1; extra == "nmi"
Requires-Dist: two>=1; sys_platform == "linux" and extra == "nmi"
Requires-Dist: client; extra == "mic"
Requires-Dist: reader; extra == "kubeconfig"
Requires-Dist: aad-pod-identity[kubeconfig,mic]; extra == "podidctl"
Requires-Dist: table; extra == "podidctl"
Requires-Dist: aad-pod-identity[demo,podidctl]; extra == "sandbox"
Requires-Dist: pages; extra == 'demo'

"""
BASE = 'base<2; python_version < "3.12"'


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        ("nmi", [BASE, "one>=1", 'two>=1; sys_platform == "linux"']),
        ("mic", [BASE, "client"]),
        ("podidctl", [BASE, "client", "table"]),
        ("demo", ["pages"]),
    ],
)
def test_requirements_keep_their_other_markers_and_have_those_of_extras_except_the_kubeconfig_readers(
    program: str, needed: list[str]
) -> None:
    assert requirements(program, CORE_METADATA) == needed


def test_the_modules_of_one_program_exist() -> None:
    assert all((ROOT / path).is_file() and program in PACKAGES for path, program in OF_ONE_PROGRAM.items())


INFO = "aiohttp-3.0.dist-info"
OWN = "aad_pod_identity-0.1.0.dist-info"


def fill(site: Path, files: dict[str, str], record: str) -> None:
    """Write files, and a list with all of them."""
    for name, content in files.items():
        (site / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (site / name).resolve().write_text(content)
    (site / record).parent.mkdir(exist_ok=True)
    (site / record).write_text("".join(f"{name},sha256=x,1\n" for name in files) + f"{record},,\n")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("program", ["nmi", "mic"])
def test_other_programs_and_their_modules_are_also_removed_from_the_list_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(install_program, "TARGET", tmp_path)
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    commands = [f"../../../bin/{name}" for name in ("nmi", "mic", "podidentity-demo", "podidctl")]
    files = ["nmi/cli.py", "podidentity/kube/client.py", "podidentity_demo/demo.py", "mic/cli.py", "_native/a.so"]
    fill(site, dict.fromkeys([*files, *OF_ONE_PROGRAM, *commands], ""), f"{OWN}/RECORD")

    remove_other_programs(site, program)
    kept = {name for name in files if name.partition("/")[0] in PACKAGES[program]} | {f"{OWN}/RECORD"}
    kept |= {path for path, owner in OF_ONE_PROGRAM.items() if owner == program}
    assert f"{program}/cli.py" in kept
    assert files_in(site) == kept
    assert files_in(tmp_path / "bin") == {program}
    listed = {row[0] for row in csv.reader((site / OWN / "RECORD").read_text().splitlines())}
    assert listed == kept | {f"../../../bin/{program}"}
    assert not (site / "podidentity_demo").exists()


def test_unused_files_are_removed_and_the_lists_contain_the_present_hashes(tmp_path: Path) -> None:
    library = tmp_path / "aiohttp/_parser.so"
    library.parent.mkdir()
    shutil.copy(next((ROOT / "_native").glob("lane.*.so")), library)
    before = library.stat().st_size
    kept = {"aiohttp/client.py": "kept", "_native/lane.pyx": "source for tracebacks"}
    unused = ("aiohttp/_parser.pyx", "aiohttp/test_utils.py", "certifi/tests/test_certify.py", "_native/lane.pyi")
    fill(tmp_path, kept | dict.fromkeys(unused, "unused"), f"{INFO}/RECORD")
    with (tmp_path / INFO / "RECORD").open("a") as record:
        record.write(f"aiohttp/_parser.so,sha256=x,{before}\n")

    remove_unused(tmp_path)
    assert files_in(tmp_path) == {*kept, "aiohttp/_parser.so", f"{INFO}/RECORD"}
    assert not (tmp_path / "certifi").exists()
    assert library.stat().st_size < before, "the symbol table is removed"
    rows = {row[0]: row[1:] for row in csv.reader((tmp_path / INFO / "RECORD").read_text().splitlines())}
    assert rows.keys() == files_in(tmp_path)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"kept").digest()).decode().rstrip("=")
    assert rows["aiohttp/client.py"] == [f"sha256={digest}", "4"]
    assert rows["aiohttp/_parser.so"][1] == str(library.stat().st_size)
    assert rows[f"{INFO}/RECORD"] == ["", ""]
