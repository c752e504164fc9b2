"""The programs that tests of `make check` and `make test` can start: those of a machine that is described here."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import listed_programs
from tests.conftest import ROOT

STATUS = """\
Package: coreutils
Essential: yes
Status: install ok installed
Architecture: amd64
Pre-Depends: libc6 (>= 2.34)
Description: programs
 of every machine

Package: libc6
Status: install ok installed
Architecture: amd64

Package: git
Status: install ok installed
Architecture: amd64
Depends: perl:any, less | pager, awk

Package: perl
Status: install ok installed
Architecture: amd64

Package: more-pager
Status: install ok installed
Architecture: amd64
Provides: pager (= 1)

Package: mawk
Status: install ok installed
Architecture: amd64
Provides: awk

Package: curl
Status: deinstall ok config-files
Architecture: amd64

Package: kubectl
Status: install ok installed
Architecture: amd64
Depends: git
"""
FILES = {
    "coreutils": ["/bin/ls"],
    "libc6:amd64": ["/sbin/ldconfig"],
    "git": ["/usr/bin/git", "/usr/share/doc/git"],
    "perl": ["/usr/bin/perl"],
    "more-pager": ["/usr/bin/more-pager"],
    "mawk": ["/usr/bin/mawk"],
    "curl": ["/usr/bin/curl"],
    "kubectl": ["/usr/bin/kubectl"],
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The files of a machine on which /bin is a link to /usr/bin."""
    machine = tmp_path / "machine"
    database = machine / "var" / "lib" / "dpkg"
    (database / "info").mkdir(parents=True)
    (database / "status").write_text(STATUS)
    for folder in ("bin", "sbin"):
        (machine / "usr" / folder).mkdir(parents=True)
        (machine / folder).symlink_to(f"usr/{folder}")
    for package, files in FILES.items():
        (database / "info" / f"{package}.list").write_text("\n".join(files))
        for file in files:
            if "bin/" in file:
                (machine / file[1:]).touch()
    (machine / "usr" / "bin" / "awk").symlink_to("../../etc/alternatives/awk")
    (machine / "etc" / "alternatives").mkdir(parents=True)
    (machine / "etc" / "alternatives" / "awk").symlink_to("../../usr/bin/mawk")
    (machine / "usr" / "bin" / "of-no-package").touch()
    return machine


@pytest.mark.parametrize(
    ("packages", "more"),
    [
        ([], set()),
        (["git"], {"git", "perl", "more-pager", "mawk", "awk"}),
        (["curl", "valgrind"], set()),
    ],
    ids=["essential packages and what they need", "dependencies, also by another name", "packages not installed"],
)
def test_the_programs_of_packages_and_of_what_they_need_are_allowed(
    machine: Path, packages: list[str], more: set[str]
) -> None:
    assert set(listed_programs.allowed_programs(packages, machine)) == {"ls", "ldconfig"} | more
    assert listed_programs.allowed_programs(packages, machine.parent) == {}, "a machine without dpkg"


def test_the_folder_has_the_programs_and_nothing_of_an_earlier_run(machine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    for packages in (["kubectl"], ["perl"], ["perl"]):
        listed_programs.link(listed_programs.allowed_programs(packages, machine), folder)
    assert sorted(each.name for each in folder.iterdir()) == ["ldconfig", "ls", "perl"]
    assert (folder / "perl").readlink() == machine / "usr" / "bin" / "perl"


def test_the_packages_are_those_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "system-packages"
    script.write_text("""
for_build() {
    needs cc "gcc libc6-dev" "compiling"
}
for_test() {
    is_root || return 0
    needs ss iproute2 "sockets"
    needs nft nftables "rules"
}
for_node() {
    needs buildah buildah "images"
}
""")
    required = listed_programs.REQUIRED | listed_programs.PRESENT
    for groups, root_user, more in (
        (["build", "test"], True, {"nftables"}),
        (["build", "test"], False, set()),
        (["build"], True, set()),
    ):
        listed = listed_programs.listed_packages(groups, root_user=root_user, script=script)
        assert listed == required | more
    assert {"nftables", "conntrack"} <= listed_programs.listed_packages(["test"], root_user=True)


@pytest.mark.parametrize(
    "failure",
    [
        "E   FileNotFoundError: [Errno 2] No such file or directory: 'kubectl'",
        "nsenter: failed to execute kubectl: No such file or directory",
        "sh: 1: kubectl: not found",
        "/bin/bash: line 1: kubectl: command not found",
    ],
)
def test_a_failure_names_the_missing_program(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(listed_programs.FOLDER / "build"))
    ((_, text),) = listed_programs.advice(failure)
    assert text.startswith("the make target of this test does not install kubectl; add its package")


def test_make_check_and_make_test_restrict_the_programs() -> None:
    command = ["make", "--dry-run", "check", "test"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    runs = [line.split()[-1] for line in made.stdout.splitlines() if "bin/pytest" in line]
    assert runs == ["--listed-programs=build", "--listed-programs=build,test"]


def test_child_processes_find_listed_programs_only(request: pytest.FixtureRequest) -> None:
    if groups := request.config.option.listed_programs:
        possible = listed_programs.listed_programs(groups.split(",")).keys() >= listed_programs.INDISPENSABLE
        assert listed_programs.is_restricted() == possible
    if listed_programs.is_restricted():
        found = subprocess.run(["sh", "-c", "git --version && kubectl"], capture_output=True, timeout=30, check=False)
        assert (found.returncode, shutil.which("go"), found.stdout[:4]) == (127, None, b"git ")
