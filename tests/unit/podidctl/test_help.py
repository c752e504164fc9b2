"""`-h` prints the help of every command, which ends with examples that the program accepts."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from podidctl.cli import COMMANDS, USAGE_ERROR, application, main


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of *command* and of all commands below it."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from paths(below, (*path, name))


PATHS = list(paths(get_command(application())))


@pytest.mark.parametrize(
    "words", [[], *([command] for command in COMMANDS), ["explain", "pod"], ["explain", "node"], ["sandbox", "up"]]
)
def test_h_is_short_for_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    long = capsys.readouterr()
    assert main([*words, "-h"]) == 0
    assert capsys.readouterr() == long
    assert long.out.startswith(" ".join(["Usage: podidctl", *words]))
    assert "-h, --help" in long.out
    assert long.err == ""


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_ends_with_examples_that_the_program_accepts(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*path, "--help"]) == 0
    _, head, end = capsys.readouterr().out.partition("\n  Examples:\n")
    lines = end.splitlines()
    assert head, "add epilog=examples(…)"
    assert 1 <= len(lines) <= 3
    for line in lines:
        assert len(line) <= 80
        words = shlex.split(line.partition(" > ")[0])
        assert words[: len(path) + 1] == ["podidctl", *path]
        assert accepted(words[1:]), line


def accepted(words: list[str]) -> bool:
    """Parse *words* as the program does, and return whether they run a command."""
    program = get_command(application())
    command: Any = program
    for word in words:
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
    ran: list[bool] = []
    command.callback = lambda **_: ran.append(True)
    program(args=words, prog_name="podidctl", standalone_mode=False)
    return bool(ran)


@pytest.mark.parametrize("words", [["doctor", "--no-such-flag"], ["explain", "pods", "a/b"], ["plan", "-o", "xml"]])
def test_a_wrong_example_is_not_accepted(words: list[str]) -> None:
    with pytest.raises(USAGE_ERROR):
        accepted(words)
