"""A PATH that has only the programs of a fresh Debian on which `make check` or `make test` was run.

The option --listed-programs=GROUPS of pytest sets it. A test that starts another program then fails on every machine. A
folder in `build/programs` has a link to each program of the packages that README.md requires, of those that
tools/system-packages installs for GROUPS, and of those that they depend on. A machine without dpkg keeps its PATH.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.checkout import ROOT

SCRIPT: Final = ROOT / "tools" / "system-packages"
FOLDER: Final = ROOT / "build" / "programs"
REQUIRED: Final = frozenset({"git", "make", "python3", "python3-venv", "gcc", "libc6-dev"})
"""The packages that README.md requires."""
PRESENT: Final = frozenset({"ca-certificates", "iproute2"})
"""Packages of every Debian server."""
INDISPENSABLE: Final = frozenset({"cc", "git", "make", "python3", "sh"})
UNRESTRICTED: Final = (
    "programs of tests: not compared with tools/system-packages, because this machine's git, make, python3 or C "
    "compiler is not a package of dpkg"
)
FOLDERS: Final = ("usr/sbin", "usr/bin", "sbin", "bin")

_FUNCTION: Final = re.compile(r"^for_(\w+)\(\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ROOT_ONLY: Final = "    is_root || return 0\n"
_NEEDS: Final = re.compile(r'^ +needs \S+ (?:"([^"]+)"|(\S+)) ', re.MULTILINE)
_MISSING: Final = re.compile(
    r"No such file or directory: '([^/']+)'|failed to execute ([^/:]+): No such|: ([\w.+-]+): (?:command )?not found"
)


def listed_packages(groups: Iterable[str], *, root_user: bool, script: Path = SCRIPT) -> frozenset[str]:
    """Return the names of the packages of README.md, and of those that *script* installs for *groups* and the user."""
    names = REQUIRED | PRESENT
    for group, body in _FUNCTION.findall(script.read_text()):
        if group in groups and (root_user or not body.startswith(_ROOT_ONLY)):
            names |= {name for parts in _NEEDS.findall(body) for name in "".join(parts).split()}
    return names


def allowed_programs(names: Iterable[str], machine: Path = Path("/")) -> dict[str, Path]:
    """Return the paths of the programs of the packages *names*, of what these need, and of essential packages."""
    files = _files(machine, names)
    programs: dict[str, Path] = {}
    for path in (path for folder in FOLDERS if (machine / folder).is_dir() for path in (machine / folder).iterdir()):
        # A link of /etc/alternatives leads to the package's file. Packages also name files in /bin, which is /usr/bin.
        real = f"/{path.resolve().relative_to(machine.resolve())}"
        if real in files or real.removeprefix("/usr") in files:
            programs.setdefault(path.name, path)
    return programs


def listed_programs(groups: Iterable[str]) -> dict[str, Path]:
    """Return the paths of the programs that a test of this user may start if its target installs *groups*."""
    return allowed_programs(listed_packages(groups, root_user=os.geteuid() == 0))


def link(programs: dict[str, Path], folder: Path) -> None:
    """Make the content of *folder* a link to each of the *programs*. Another process may do the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in programs and not path.name.startswith("."):  # a link that another process makes now
            path.unlink(missing_ok=True)
    for name, target in programs.items():
        path = folder / name
        if not path.is_symlink() or path.readlink() != target:
            new = folder / f".{name}.{os.getpid()}"
            new.symlink_to(target)
            new.replace(path)


def restrict_path(groups: Sequence[str]) -> None:
    """Set PATH to the listed programs, if those that all tests share are among them."""
    programs = listed_programs(groups)
    if programs.keys() >= INDISPENSABLE:
        folder = FOLDER / "-".join(groups)
        link(programs, folder)
        os.environ["PATH"] = str(folder)


def is_restricted() -> bool:
    """Return whether PATH has only the listed programs."""
    return Path(os.environ["PATH"]).parent == FOLDER


def advice(failure: str) -> Iterator[tuple[str, str]]:
    """Yield titles and texts that explain which programs the text of a *failure* reports as missing."""
    names = {name for parts in _MISSING.findall(failure) for name in parts if name}
    for name in sorted(names):
        if is_restricted() and not Path(os.environ["PATH"], name).exists():
            remedy = "add its package to tools/system-packages, or give the test another marker (CONTRIBUTING.md)"
            yield "program", f"the make target of this test does not install {name}; {remedy}"


def _files(machine: Path, names: Iterable[str]) -> set[str]:
    """Return the files of the packages *names*, of what these need, and of essential packages."""
    pending, by_name = list(names), dict[str, list[dict[str, str]]]()
    for fields in _installed(machine):
        for name in (fields["Package"], *_names(fields.get("Provides", ""))):
            by_name.setdefault(name, []).append(fields)
        if fields.get("Essential") == "yes":
            pending.append(fields["Package"])
    files, seen = set[str](), set[str]()
    while pending:
        name = pending.pop()
        for fields in by_name.get(name, []) if name not in seen else []:
            for alternatives in f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}".split(","):
                pending += [name for name in _names(alternatives) if name in by_name][:1]
            for suffix in ("", f":{fields['Architecture']}"):
                listed = machine / f"var/lib/dpkg/info/{fields['Package']}{suffix}.list"
                files |= set(listed.read_text().splitlines()) if listed.exists() else set()
        seen.add(name)
    return files


def _installed(machine: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of each installed package of dpkg's database."""
    status = machine / "var" / "lib" / "dpkg" / "status"
    for paragraph in status.read_text().split("\n\n") if status.exists() else []:
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" ok installed"):
            yield fields


def _names(relations: str) -> list[str]:
    """Return all package names of *relations* such as `libc6:any (>= 2.36), less | pager`."""
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]*)", relations)
