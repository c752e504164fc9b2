"""Ctrl-C while podidctl still imports its modules ends it like any other Ctrl-C."""

import importlib.abc
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from typing_extensions import override

from podidctl import launcher


class _Interrupted(importlib.abc.MetaPathFinder):
    """Raises KeyboardInterrupt when the program is imported."""

    @override
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname == "podidctl.cli":
            raise KeyboardInterrupt


def test_the_exit_code_is_that_of_an_interrupted_command_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "podidctl.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Interrupted(), *sys.meta_path])
    assert launcher.main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")
