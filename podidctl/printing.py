"""How every command of the operator prints: a table for people, JSON or YAML for programs, and nothing that an object's
author could steer a terminal with.
"""

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from podidentity.telemetry.logs import redact

PIPE_COLUMNS = 200
"""Width of the tables where nobody's window says another: what does not fit is folded, never cut."""
TEXT_MAX = 600
"""Characters of one text that are shown: a message of the API server or of Azure is shorter."""


class Output(StrEnum):
    """How it is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def console(*, stderr: bool = False) -> Console:
    """Standard output, or error, as wide as its window or as a pipe may well be."""
    made = Console(highlight=False, emoji=False, stderr=stderr)
    if not made.is_terminal:
        made.width = PIPE_COLUMNS
    return made


def plain(text: str) -> str:
    """*text*, which anybody may have written, as one printable line without credentials, cut to TEXT_MAX."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * TEXT_MAX]).split())
    return redact(line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…")


def printable_json(text: str) -> str:
    """JSON *text* with escapes for what could steer a terminal, which stands in its strings alone."""
    return "".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def print_document(value: Any, output: Output, to: Console) -> None:
    """*value*, of msgspec's types, as JSON or YAML."""
    text = _json(value) if output is Output.JSON else _yaml(value)
    to.print(text.rstrip("\n"), markup=False, soft_wrap=True)


def _json(value: Any) -> str:
    """Indented."""
    return printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _yaml(value: Any) -> str:
    """The same; only where there is such a character, everything that is not ASCII is escaped with it."""
    document = msgspec.to_builtins(value)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=PIPE_COLUMNS)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=False, width=PIPE_COLUMNS)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], to: Console) -> None:
    """Rows of cells, of which the first of each row may be markup of ours; what does not fit is folded."""
    table = Table(*columns, box=SIMPLE)
    for column in table.columns:
        column.overflow = "fold"
    for first, *others in rows:
        table.add_row(first, *(escape(cell) for cell in others))
    to.print(table)


def print_error(line: str) -> int:
    """One line on stderr; the exit code that goes with it."""
    print(f"podidctl: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return 1
