"""`-h` prints the help of every command."""

import pytest

from podidctl.cli import COMMANDS, main


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS), ["explain", "pod"], ["sandbox", "up"]])
def test_h_is_short_for_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    long = capsys.readouterr()
    assert main([*words, "-h"]) == 0
    assert capsys.readouterr() == long
    assert long.out.startswith(" ".join(["Usage: podidctl", *words]))
    assert "-h, --help" in long.out
    assert long.err == ""
