"""The version from which an upgrade starts."""

import subprocess
from pathlib import Path

import pytest

from podidentity.version import VERSION
from tests.realnode import former as module
from tests.realnode.former import Former, check_out, commit_of, former, newest_tag, version_of
from tests.realnode.processes import BedError


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of other versions. Neither has a tag."""
    folder = tmp_path / "repository"
    (folder / "podidentity").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for version in ("1.0.0", "1.1.0"):
        (folder / "podidentity" / "version.py").write_text(f'VERSION = "{version}"\n')
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", f"--message={version}")
    return folder


def test_the_newest_tag_before_the_present_commit_is_found(repository: Path) -> None:
    assert newest_tag(repository) == ""
    git(repository, "tag", "v1.0.0", "HEAD^")
    git(repository, "tag", "unrelated", "HEAD^")
    assert newest_tag(repository) == "v1.0.0"
    git(repository, "tag", "v1.1.0")
    assert newest_tag(repository) == "v1.0.0", "the present version is not its own predecessor"


def test_the_sources_of_an_earlier_commit_are_checked_out(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "former" / "sources"
    check_out(repository, commit_of(repository, "HEAD^"), folder)
    assert version_of(folder) == "1.0.0"
    assert version_of(repository) == "1.1.0"
    assert git(folder, "ls-files").splitlines() == ["podidentity/version.py"], "the build of the images reads this list"


def test_the_images_are_built_by_the_script_of_the_earlier_version(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = repository / "tools" / "local-images"
    script.parent.mkdir()
    for line in ('echo "$PWD $1" >built-by-the-former', "exit 1"):
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "--message=script")
    monkeypatch.setattr(module, "ROOT", repository)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "former")
    found = former({"FORMER": "HEAD^"})
    assert (found.folder / "built-by-the-former").read_text() == f"{found.folder} once\n"
    with pytest.raises(BedError, match=r"the images of HEAD were not built; see .*/build/images/log"):
        former({"FORMER": "HEAD"})


def test_images_of_two_versions_never_have_the_same_name() -> None:
    same = Former("f3f8368", "f3f836819282", Path(), VERSION)
    assert same.tag == f"{VERSION}-f3f8368"
    assert same.values() == {"nmi": {"tag": same.tag}, "mic": {"tag": same.tag}}
    other = Former("v0.9.0", "aaaaaaaaaaaa", Path(), "0.9.0")
    assert (other.tag, other.values()) == ("0.9.0", {})
