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
    lines = [f"Requires-Dist: {each}" for each in PROJECT["dependencies"]]
    for extra, needed in PROJECT["optional-dependencies"].items():
        lines += [f"Requires-Dist: {each}; extra == '{extra}'" for each in needed]
    return "\n".join(["Metadata-Version: 2.4", "Name: aad-pod-identity", *lines, "", ""]).encode()


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


def applying(lines: list[str], extras: set[str]) -> list[Requirement]:
    """Return the requirements that apply on this machine with *extras*."""
    marked = [Requirement(line) for line in lines]
    return [
        each
        for each in marked
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras | {""})
    ]


@pytest.mark.parametrize("program", PACKAGES)
def test_all_requirements_of_a_program_are_locked(program: str) -> None:
    needed = closure(program)
    assert len(needed) > 10
    assert needed <= LOCKED


def names(program: str) -> set[str]:
    return {name for name, _ in closure(program)}


MANAGEMENT = {"azure-mgmt-compute", "azure-mgmt-core"}
FOR_PEOPLE = {"typer", "rich", "pyyaml"}
FOR_DEVELOPERS = {"pytest", "mypy", "ruff", "hypothesis", "matplotlib", "cython", "setuptools"}


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
def test_an_image_gets_the_packages_of_its_program_only(program: str, needed: set[str], refused: set[str]) -> None:
    found = names(program)
    assert needed <= found
    assert not found & (refused | FOR_DEVELOPERS | {"kubernetes"})
    assert {name for name in found if name.startswith("azure-mgmt")} <= MANAGEMENT
    assert program != "nmi" or {name for name in found if name.startswith("azure")} == needed


def test_the_kubeconfig_reader_is_an_extra_that_no_image_installs() -> None:
    extras = PROJECT["optional-dependencies"]
    assert [Requirement(each).name for each in extras["kubeconfig"]] == ["kubernetes"]
    assert {extra for each in extras["podidctl"] for extra in Requirement(each).extras} >= {"kubeconfig", "mic"}


def imported(package: str) -> set[str]:
    """Return the packages of this project that the modules of *package* import, compiled ones included."""
    found = set()
    for file in (ROOT / package).rglob("*.py*"):
        if file.suffix in {".py", ".pyx"}:
            found |= set(re.findall(r"^\s*(?:from|import|cimport) (\w+)", file.read_text(), re.MULTILINE))
    return found & OURS


@pytest.mark.parametrize("program", PACKAGES)
def test_a_programs_packages_are_those_that_it_imports(program: str) -> None:
    reached = {PROJECT["scripts"][COMMANDS[program]].partition(".")[0]}
    while more := {each for package in reached for each in imported(package)} - reached:
        reached |= more
    assert reached == PACKAGES[program]


def test_requirements_keep_their_other_markers() -> None:
    core_metadata = b"""Metadata-Version: 2.4
Requires-Dist: base<2; python_version < "3.12"
Requires-Dist: one>=1; extra == "nmi"
Requires-Dist: two>=1; sys_platform == "linux" and extra == "nmi"
Requires-Dist: three; extra == 'demo'

"""
    assert requirements("nmi", core_metadata) == [
        'base<2; python_version < "3.12"',
        "one>=1",
        'two>=1; sys_platform == "linux"',
    ]
    assert requirements("demo", core_metadata) == ["three"]


def test_an_extra_of_extras_has_their_requirements_except_those_of_the_kubeconfig_reader() -> None:
    core_metadata = b"""Metadata-Version: 2.4
Requires-Dist: base
Requires-Dist: client; extra == "mic"
Requires-Dist: reader; extra == "kubeconfig"
Requires-Dist: aad-pod-identity[kubeconfig,mic]; extra == "podidctl"
Requires-Dist: table; extra == "podidctl"
Requires-Dist: aad-pod-identity[demo,podidctl]; extra == "sandbox"
Requires-Dist: pages; extra == "demo"

"""
    assert requirements("podidctl", core_metadata) == ["base", "client", "table"]
    assert requirements("mic", core_metadata) == ["base", "client"]


def test_the_modules_of_one_program_exist() -> None:
    assert all((ROOT / path).is_file() and program in PACKAGES for path, program in OF_ONE_PROGRAM.items())


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_other_programs_are_also_removed_from_the_list_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_program, "TARGET", tmp_path)
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    files = [
        "nmi/cli.py",
        "podidentity/kube/client.py",
        "podidentity_demo/cli.py",
        "mic/azure/compute.py",
        "_native/a.so",
        *OF_ONE_PROGRAM,
    ]
    info = ["aad_pod_identity-0.1.0.dist-info/METADATA", "aad_pod_identity-0.1.0.dist-info/RECORD"]
    commands = ["../../../bin/nmi", "../../../bin/mic", "../../../bin/podidentity-demo", "../../../bin/podidctl"]
    for name in [*files, *info, *commands, "aiohttp/client.py"]:
        (site / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (site / name).resolve().touch()
    record = site / info[1]
    record.write_text("".join(f"{name},sha256=x,1\n" for name in [*files, *info, *commands]))

    remove_other_programs(site, "nmi")
    left = files_in(tmp_path)
    prefix = "lib/python3.11/site-packages"
    kept = [files[0], files[1], *files[4:], *info]
    assert left == {f"{prefix}/{name}" for name in [*kept, "aiohttp/client.py"]} | {"bin/nmi"}
    assert [row[0] for row in csv.reader(record.read_text().splitlines())] == [*kept, "../../../bin/nmi"]
    assert not (site / "mic").exists()


def test_the_modules_of_one_program_are_removed_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_program, "TARGET", tmp_path)
    files = ["podidentity/http_client/errors.py", *OF_ONE_PROGRAM, "aad_pod_identity-0.1.0.dist-info/RECORD"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / files[-1]).write_text("".join(f"{name},sha256=x,1\n" for name in files))

    remove_other_programs(tmp_path, "mic")
    assert files_in(tmp_path) == {files[0], files[-1]}


def test_unused_files_are_removed_and_the_lists_contain_the_present_hashes(tmp_path: Path) -> None:
    info = "aiohttp-3.0.dist-info"
    files = {
        "aiohttp/client.py": "kept",
        "aiohttp/_parser.pyx": "source",
        "aiohttp/test_utils.py": "for tests",
        "certifi/tests/test_certify.py": "test",
        "_native/lane.pyx": "source for tracebacks",
        "_native/lane.pyi": "stub",
        f"{info}/RECORD": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    library = tmp_path / "aiohttp/_parser.so"
    shutil.copy(next((ROOT / "_native").glob("lane.*.so")), library)
    before = library.stat().st_size
    record = tmp_path / info / "RECORD"
    record.write_text(
        f"aiohttp/client.py,sha256=x,4\naiohttp/_parser.so,sha256=x,{before}\naiohttp/_parser.pyx,,\n{info}/RECORD,,\n"
    )

    remove_unused(tmp_path)
    assert files_in(tmp_path) == {"aiohttp/client.py", "aiohttp/_parser.so", "_native/lane.pyx", f"{info}/RECORD"}
    assert not (tmp_path / "certifi").exists()
    assert library.stat().st_size < before, "the symbol table is removed"
    (client, stripped, own) = csv.reader(record.read_text().splitlines())
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"kept").digest()).decode().rstrip("=")
    assert client == ["aiohttp/client.py", f"sha256={digest}", "4"]
    assert stripped[0::2] == ["aiohttp/_parser.so", str(library.stat().st_size)]
    assert own == [f"{info}/RECORD", "", ""]
