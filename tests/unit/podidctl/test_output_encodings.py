"""Output whose encoding lacks a character: texts have an escape in its place, documents are UTF-8."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Final

import pytest
import yaml

from podidctl.commands import doctor
from podidctl.launcher import main
from podidctl.report.documents import CheckResult, Report
from podidctl.report.finding import Level
from podidentity.exits import ended

TEXT: Final = "rg-ä → 😀"
in_each_encoding: Final = pytest.mark.parametrize("encoding", ["ascii", "latin-1"])


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    async def examine(*_: object, **__: object) -> Report:
        return Report(findings=[CheckResult(check="exceptions", level=Level.OK, says=TEXT, next="")])

    monkeypatch.setattr(doctor, "_examine", examine)


def written(run: Callable[[], int], encoding: str) -> bytes:
    """Return what *run* has written to standard output with this encoding."""
    binary = io.BytesIO()
    output = io.TextIOWrapper(binary, encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        assert run() == 0
    output.flush()
    return binary.getvalue()


def printed(words: Sequence[str], encoding: str) -> bytes:
    return written(lambda: main(words), encoding)


@in_each_encoding
def test_a_text_is_complete(encoding: str) -> None:
    assert TEXT.encode(encoding, "backslashreplace") in printed(["doctor"], encoding)


@in_each_encoding
@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_document_is_complete(
    output: str, read: Callable[[bytes], dict[str, list[dict[str, str]]]], encoding: str
) -> None:
    document = read(printed(["doctor", "-o", output], encoding))
    assert document["findings"][0]["says"] == TEXT


@in_each_encoding
def test_help_is_complete(encoding: str) -> None:
    assert b"rewrites manifests" in printed(["migrate", "from-reference", "--help"], encoding)


@in_each_encoding
@pytest.mark.parametrize("program", ["nmi", "mic"])
def test_texts_of_the_daemons_programs_are_complete(program: str, encoding: str) -> None:
    text = written(lambda: ended(program, lambda: sys.stdout.writelines([TEXT])), encoding)
    assert text == TEXT.encode(encoding, "backslashreplace")
