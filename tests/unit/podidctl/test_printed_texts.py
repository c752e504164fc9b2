"""Untrusted texts on a terminal: no markup, no lost backslash, no control character."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from podidctl.report.finding import Level
from podidctl.report.text import print_line, print_table
from podidctl.verify import command
from podidctl.verify.verdicts import Answered, NodeVerdict, Verification

VERBATIM = ("[red]", r"\[red]", r"a\[", "\\", "[/]", r"[u]\\[/u]", ":smile:", "é")
CONTROL = {"\x1b[2J": "?[2J", "a\nb": "a?b", "\x00": "?", "\x9b31m": "?31m", "\u202ex": "?x", "\t": "?"}


def terminal() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=60, force_terminal=True, highlight=False, emoji=False, color_system=None), file


def in_a_line(text: str, to: Console) -> None:
    print_line(to, text, " ", (text, "bold"))


def in_a_row(text: str, to: Console) -> None:
    print_table(("", "one", "two"), [((text, "red"), text, (text, "dim"))], to)


def in_a_verdict(text: str, to: Console) -> None:
    verdict = NodeVerdict(
        node=text, level=Level.PROBLEM, answered_by=Answered.NOTHING, says=text, next=f"do {text}, then this"
    )
    command.show(Verification("default", [verdict]), to)


@pytest.mark.parametrize(("text", "shown"), [*((text, text) for text in VERBATIM), *CONTROL.items()])
@pytest.mark.parametrize(("show", "times"), [(in_a_line, 2), (in_a_row, 3), (in_a_verdict, 4)])
def test_a_text_is_printed_as_it_is(show: Callable[[str, Console], None], times: int, text: str, shown: str) -> None:
    to, file = terminal()
    show(text, to)
    assert file.getvalue().count(shown) == times
    assert all(line.isprintable() for line in file.getvalue().split("\n"))
