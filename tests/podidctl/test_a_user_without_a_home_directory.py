"""A container's user has no home directory: podidctl then looks for no file there."""

import pwd
from pathlib import Path
from typing import Never

import pytest

from podidctl.cluster_access import home_directory


@pytest.fixture
def no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is in no file of users, and no variable names the directory."""

    def unknown(_: object) -> Never:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("no_entry")
def test_the_root_directory_is_used() -> None:
    assert home_directory() == Path("/")


def test_the_home_directory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/operator")
    assert home_directory() == Path("/home/operator")
