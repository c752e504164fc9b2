"""The programs that tests of `make check` and `make test` can start."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import listed_programs
from tests.support.checkout import ROOT

STATUS = """\
Package: coreutils
Essential: yes
Status: install ok installed
Architecture: amd64

Package: git
Status: install ok installed
Architecture: amd64
Depends: perl:any, less | pager

Package: perl
Status: install ok installed
Architecture: amd64

Package: more-pager
Status: install ok installed
Architecture: amd64
Provides: pager (= 1)

Package: curl
Status: deinstall ok config-files
Architecture: amd64
"""
FILES = {"coreutils": "ls", "git": "git", "perl:amd64": "perl", "more-pager": "more", "curl": "curl"}


@pytest.mark.parametrize(
    ("packages", "more"),
    [([], set()), (["git"], {"git", "perl", "more"}), (["curl", "valgrind"], set())],
    ids=["essential packages", "dependencies, also by another name", "packages not installed"],
)
def test_the_programs_of_packages_and_of_what_they_need_are_allowed(
    tmp_path: Path, packages: list[str], more: set[str]
) -> None:
    assert listed_programs.allowed_programs(packages, tmp_path) == {}, "a machine without dpkg"
    for folder in ("usr/bin", "var/lib/dpkg/info", "alternatives"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    for package, name in FILES.items():
        (tmp_path / f"var/lib/dpkg/info/{package}.list").write_text(f"/bin/{name}\n")
        (tmp_path / "usr/bin" / name).touch()
    (tmp_path / "usr/bin/of-no-package").touch()
    (tmp_path / "alternatives/list").symlink_to(tmp_path / "usr/bin/ls")
    (tmp_path / "usr/bin/list").symlink_to("../../alternatives/list")

    programs = listed_programs.allowed_programs(packages, tmp_path)
    assert set(programs) == {"ls", "list"} | more
    for _ in range(2):
        listed_programs.link(programs, tmp_path / "programs")
    listed_programs.link({"ls": programs["ls"]}, tmp_path / "programs")
    assert [each.name for each in (tmp_path / "programs").iterdir()] == ["ls"], "nothing of an earlier run is left"


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
