"""The version from which an upgrade starts is another one than the present."""

import subprocess
from pathlib import Path

from podidentity.version import VERSION
from tests.system.node.former import Former, newest_tag


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True)


def test_the_newest_tag_before_the_present_commit_is_found(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    for version in ("1.0.0", "1.1.0"):
        git(tmp_path, "commit", "--quiet", "--allow-empty", f"--message={version}")
    assert newest_tag(tmp_path) == ""
    git(tmp_path, "tag", "v1.0.0", "HEAD^")
    git(tmp_path, "tag", "unrelated", "HEAD^")
    git(tmp_path, "tag", "v1.1.0")
    assert newest_tag(tmp_path) == "v1.0.0", "the present version is not its own predecessor"


def test_images_of_two_versions_never_have_the_same_name() -> None:
    same = Former("f3f8368", "f3f836819282", Path(), VERSION)
    assert same.tag == f"{VERSION}-f3f8368"
    assert same.values() == {"nmi": {"tag": same.tag}, "mic": {"tag": same.tag}}
    other = Former("v0.9.0", "aaaaaaaaaaaa", Path(), "0.9.0")
    assert (other.tag, other.values()) == ("0.9.0", {})
