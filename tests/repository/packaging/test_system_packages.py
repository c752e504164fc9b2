"""tools/system-packages, with fakes of apt-get, dpkg and id, and a PATH that has nothing else to install."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

SCRIPT = ROOT / "tools" / "system-packages"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HEADER = f"usr/include/python{VERSION}/Python.h"
PACKAGES = f"gcc libc6-dev libpython{VERSION}-dev spin"
PROGRAMS = ["cat", "chmod", "ls", "mkdir", "mv", "rm", "sh", "touch"]
APT_GET = """\
echo "apt-get $*" >>"$CALLS"
case "$1" in
update) touch "$LISTS" ;;
install) [ -e "$LISTS" ] ;;
download) [ -e "$LISTS" ] && touch package.deb ;;
esac
"""
DPKG = """\
for file in $UNPACKED; do
    mkdir -p "$3/${file%/*}"
    printf '#!/bin/sh\\n' >"$3/$file"
    chmod +x "$3/$file"
done
"""


class Machine:
    """A working directory and a PATH. `programs` is the only directory in it."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.work, self.calls = folder / "programs", folder / "work", folder / "calls"
        self.lists = folder / "lists"
        self.programs.mkdir()
        self.work.mkdir()
        for name in PROGRAMS:
            (self.programs / name).symlink_to(shutil.which(name) or name)
        self.program("apt-get", APT_GET)
        self.program("dpkg", DPKG)
        self.program("id", "echo 1000")
        self.program("python", f'exec {sys.executable} "$@"')
        self.unpacked = ""

    def remove_headers(self) -> None:
        """Replace the interpreter by one without Python.h."""
        run_python = f'exec {sys.executable} "$@"'
        self.program("python", f'case "$2" in *sysconfig*) echo {self.lists}/none ;; *) {run_python} ;; esac')

    def program(self, name: str, text: str = "") -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.programs / name).chmod(0o755)

    def run(self, *groups: str) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": str(self.programs), "CALLS": str(self.calls), "LISTS": str(self.lists)}
        return subprocess.run(
            ["/bin/sh", SCRIPT, *groups],
            cwd=self.work,
            env={**variables, "PYTHON": "python", "UNPACKED": self.unpacked},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def apt_calls(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_function_has_the_name_of_a_program_that_it_looks_for() -> None:
    text = SCRIPT.read_text()
    functions = set(re.findall(r"^(\w+)\(\)", text, flags=re.MULTILINE))
    programs = set(re.findall(r"\b(?:has|needs) ([a-z][\w-]*)", text))
    assert {"nginx", "prometheus", "promtool", "spin", "curl"} <= programs
    assert not functions & programs


def test_root_installs_what_is_missing_in_one_call(machine: Machine) -> None:
    machine.remove_headers()
    machine.program("id", "echo 0")
    machine.lists.touch()
    done = machine.run("build", "spin")
    assert done.returncode == 0, done.stderr
    assert machine.apt_calls == [f"apt-get install -y -q --no-install-recommends {PACKAGES}"]
    assert "cc is missing; needed for compiling _native\n" in done.stderr


def test_root_updates_the_package_lists_only_if_the_installation_fails(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("cc")
    done = machine.run("build", "spin")
    assert done.returncode == 0, done.stderr
    install = "apt-get install -y -q --no-install-recommends spin"
    assert machine.apt_calls == [install, "apt-get update -q", install]


def test_another_user_gets_one_command_that_installs_everything(machine: Machine) -> None:
    machine.remove_headers()
    done = machine.run("build", "test", "nginx", "prometheus", "spin")
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"\nrun: sudo apt-get update && sudo apt-get install --no-install-recommends {PACKAGES}\n"
    )
    assert "apt-get cannot download prometheus\n" in done.stderr
    assert not any("install" in call or "update" in call for call in machine.apt_calls)


def test_another_user_gets_the_headers_without_installation(machine: Machine) -> None:
    machine.remove_headers()
    machine.program("cc")
    machine.lists.touch()
    machine.unpacked = HEADER
    for _ in range(2):
        assert machine.run("build").returncode == 0
        assert (machine.work / ".venv" / "headers" / HEADER).is_file()
        assert len(machine.apt_calls) == 1


def test_prometheus_is_unpacked_and_never_installed(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.lists.touch()
    machine.unpacked = "usr/bin/prometheus usr/bin/promtool"
    assert machine.run("prometheus").returncode == 0
    assert machine.apt_calls == ["apt-get download -q prometheus"]
    assert (machine.work / "build/prometheus/usr/bin/promtool").is_file()


def test_a_failed_download_leaves_no_folder(machine: Machine) -> None:
    machine.program("prometheus")
    done = machine.run("prometheus")
    assert done.returncode == 1
    assert list((machine.work / "build").iterdir()) == []
    assert done.stderr.endswith("apt-get cannot download prometheus\nrun: sudo apt-get update; then try again\n")


def test_a_machine_without_apt_get_gets_the_reason(machine: Machine) -> None:
    (machine.programs / "apt-get").unlink()
    machine.program("id", "echo 0")
    done = machine.run("build", "spin")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "cc is missing; needed for compiling _native",
        "spin is missing; needed for checking the model of an address's life cycle",
        "this script uses apt-get, which is missing; install the programs above by another package manager",
    ]


def test_nothing_is_called_where_nothing_is_missing_and_an_unknown_group_is_refused(machine: Machine) -> None:
    for name in ("cc", "nginx", "prometheus", "promtool", "spin"):
        machine.program(name)
    done = machine.run("build", "test", "nginx", "prometheus", "spin")
    assert (done.returncode, done.stderr) == (0, "")
    done = machine.run("nginxx")
    assert done.returncode == 2
    assert "unknown group nginxx" in done.stderr
    assert machine.apt_calls == []
