"""The reason that the sandbox prints where pods are not network namespaces."""

import os
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings


@pytest.mark.parametrize(
    ("user", "has_ip", "reason"),
    [
        (1000, True, "not root"),
        (0, False, "the program ip is missing (package iproute2)"),
        (0, True, "this system does not permit network namespaces"),
    ],
)
def test_the_reason_names_what_is_missing(
    user: int, has_ip: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_ip:
        (tmp_path / "ip").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert Sandbox(Settings()).loopback_reason == reason
