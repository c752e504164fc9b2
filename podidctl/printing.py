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


def print_document(value: Any, output: Output, to: Console) -> None:
    """*value*, of msgspec's types, as JSON or YAML."""
    document = msgspec.to_builtins(value)
    text = (
        msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
        if output is Output.JSON
        else yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=PIPE_COLUMNS)
    )
    to.print(text.rstrip("\n"), markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], to: Console) -> None:
    """Rows of cells, of which the first of each row may be markup of ours; what does not fit is folded."""
    table = Table(*columns, box=SIMPLE)
    for column in table.columns:
        column.overflow = "fold"
    for first, *others in rows:
        table.add_row(first, *(escape(cell) for cell in others))
    to.print(table)


def complain(line: str) -> int:
    """One line on stderr; the exit code that goes with it."""
    print(f"podidctl: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return 1
