"""Output that cannot be written: one line and exit code 1, also for --help, and no text after the end of a reader."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import pytest

import mic.cli
import nmi.cli
import podidctl.cli
from podidentity.exits import ended, written_output

PROGRAMS: Final[dict[str, Callable[[list[str]], int]]] = {
    "nmi": nmi.cli.main,
    "mic": mic.cli.main,
    "podidctl": podidctl.cli.main,
}
FULL: Final = Path("/dev/full")
WORDS: Final = ("--help", "--version")


def on_a_full_disk() -> IO[str]:
    return FULL.open("w")


def without_a_reader() -> IO[str]:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def code_of(program: str, word: str, output: IO[str] | None = None) -> object:
    """Return the exit code, with *output* as standard output."""
    with pytest.MonkeyPatch.context() as patch:
        if output is not None:
            patch.setattr(sys, "stdout", output)
        try:
            return PROGRAMS[program]([word])
        except SystemExit as stop:
            return stop.code


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_disk_is_one_line(program: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with on_a_full_disk() as output:
        assert code_of(program, word, output) == 1
    err = capsys.readouterr().err
    assert err == (
        f"{program}: the output cannot be written (No space left on device): free space on its disk, or redirect it "
        "elsewhere\n"
    )


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_reader_that_has_ended_gets_no_line(program: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(BrokenPipeError), without_a_reader() as output:  # Typer leaves its text in the buffer
        assert code_of(program, word, output) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_closed_output_and_a_usable_one_are_no_failure(
    program: str, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_of(program, word) in {0, None}
    assert program in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", None)
    assert code_of(program, word) in {0, None}


def test_another_error_is_not_reported_as_one_of_the_output() -> None:
    with pytest.raises(FileNotFoundError), written_output():
        Path("/absent").read_text()


@pytest.mark.parametrize("defect", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space")])
def test_a_daemons_error_of_the_same_kind_is_a_defect_with_its_traceback(defect: OSError) -> None:
    def work() -> None:
        raise defect

    with pytest.raises(OSError, match=defect.strerror):
        ended("nmi", work)
