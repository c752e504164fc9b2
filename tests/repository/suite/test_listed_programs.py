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

Package: git
Status: install ok installed
Depends: perl:any, less | pager, perl | sh

Package: perl
Status: install ok installed

Package: more-pager
Status: install ok installed
Provides: pager (= 1)

Package: sh
Status: install ok installed

Package: curl
Status: deinstall ok config-files
""".replace("Status:", "Architecture: amd64\nStatus:")


def test_the_programs_of_packages_and_of_what_they_need_are_allowed(tmp_path: Path) -> None:
    assert listed_programs.allowed_programs(["git"], tmp_path) == {}, "a machine without dpkg"
    for folder in ("usr/bin", "var/lib/dpkg/info", "alternatives"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    for package in ("coreutils", "git", "perl:amd64", "more-pager", "sh", "curl"):
        program = f"of-{package.partition(':')[0]}"
        (tmp_path / f"var/lib/dpkg/info/{package}.list").write_text(f"/bin/{program}\n")
        (tmp_path / "usr/bin" / program).touch()
    (tmp_path / "usr/bin/of-no-package").touch()
    (tmp_path / "alternatives/list").symlink_to(tmp_path / "usr/bin/of-coreutils")
    (tmp_path / "usr/bin/list").symlink_to("../../alternatives/list")

    essential = {"of-coreutils", "list"}
    assert set(listed_programs.allowed_programs(["curl", "valgrind"], tmp_path)) == essential
    programs = listed_programs.allowed_programs(["git"], tmp_path)
    assert set(programs) == essential | {"of-git", "of-perl", "of-more-pager"}
    for chosen in (programs, programs, {"list": programs["list"]}):
        listed_programs.link(chosen, tmp_path / "programs")
    assert [program.name for program in (tmp_path / "programs").iterdir()] == ["list"], (
        "nothing of an earlier run is left"
    )


def test_the_packages_are_those_of_the_script() -> None:
    of_root, without, for_build = (
        listed_programs.listed_packages(groups, root_user=root_user)
        for groups, root_user in ((["build", "test"], True), (["build", "test"], False), (["build"], True))
    )
    assert {"nftables", "conntrack"} <= of_root - for_build
    assert not {"nftables", "conntrack"} & without
    assert without & for_build >= listed_programs.REQUIRED | listed_programs.PRESENT
    assert "buildah" not in of_root


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
        done = subprocess.run(["sh", "-c", "git --version && kubectl"], capture_output=True, timeout=30, check=False)
        assert (done.returncode, shutil.which("go"), done.stdout[:4]) == (127, None, b"git ")
