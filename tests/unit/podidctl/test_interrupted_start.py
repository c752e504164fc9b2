"""Ctrl-C during the start, when Python imports modules."""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest

ENTRY = {"podidctl": "podidctl.launcher", "nmi": "nmi.__main__", "mic": "mic.__main__"}
Start = Callable[[str, str], int]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return a function that runs a command line as the installed script does, which imports the entry point and calls
    it. The import of one module is interrupted. Its result is the exit code.
    """

    class Finder:
        name = ""

        def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
            if name == self.name:
                raise KeyboardInterrupt
            return None

    finder = Finder()

    def run(command_line: str, interrupted: str) -> int:
        program, *_ = words = command_line.split()
        finder.name = interrupted
        for loaded in {ENTRY[program], f"{program}.cli", interrupted} & sys.modules.keys():
            package, _, attribute = loaded.rpartition(".")
            if package:  # which a new import changes
                monkeypatch.setattr(sys.modules[package], attribute, sys.modules[loaded])
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(sys, "argv", words)
        try:
            code: int = importlib.import_module(ENTRY[program]).main()
        except KeyboardInterrupt:
            pytest.fail("Python would print a traceback")
        return code

    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return run


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("podidctl", "podidentity.exits"),
        ("podidctl", "podidctl.cli"),
        ("podidctl", "podidentity.version"),
        ("podidctl", "typer"),
        ("podidctl", "podidctl.commands.doctor"),
        ("nmi", "nmi.cli"),
        ("nmi", "nmi.settings"),
        ("mic", "mic.cli"),
        ("mic", "mic.startup.settings"),
    ],
)
def test_an_interrupted_import_ends_the_command_without_a_traceback(
    start: Start, program: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(f"{program} doctor --help", name) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command_line", "output"),
    [("podidctl doctor --help", "Usage: podidctl doctor"), ("nmi --version", "nmi "), ("mic --version", "mic ")],
)
def test_a_start_without_an_interrupt_runs_the_command(
    start: Start, command_line: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(command_line, "no_such_module") == 0
    assert capsys.readouterr().out.startswith(output)
