"""Ctrl-C during the start, when Python imports modules."""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec

import pytest

ENTRY = "podidctl.launcher"
Interrupt = Callable[[str], None]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Let the next import of a module be interrupted, and that of the entry point be the first one."""

    class Finder:
        name = ""

        def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
            if name == self.name:
                raise KeyboardInterrupt
            return None

    finder = Finder()

    def set_name(name: str) -> None:
        finder.name = name
        for loaded in {ENTRY, "podidctl.cli", name} & sys.modules.keys():
            package, _, attribute = loaded.rpartition(".")
            if package:  # which a new import changes
                monkeypatch.setattr(sys.modules[package], attribute, sys.modules[loaded])
            monkeypatch.delitem(sys.modules, loaded)

    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return set_name


def started(arguments: Sequence[str]) -> int:
    """Return the exit code of the installed script, which imports the entry point and calls it."""
    try:
        code: int = importlib.import_module(ENTRY).main(arguments)
    except KeyboardInterrupt:
        pytest.fail("Python would print a traceback")
    return code


@pytest.mark.parametrize(
    "name", ["podidentity.exits", "podidctl.cli", "podidentity.version", "typer", "podidctl.commands.doctor"]
)
def test_an_interrupted_import_ends_the_command_without_a_traceback(
    interrupt: Interrupt, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(name)
    assert started(["doctor", "--help"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_start_without_an_interrupt_runs_the_command(
    interrupt: Interrupt, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt("no_such_module")
    assert started(["doctor", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: podidctl doctor")
