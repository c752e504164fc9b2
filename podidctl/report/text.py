"""Text for people and JSON or YAML for programs. No output contains terminal control characters from an object."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from itertools import zip_longest
from typing import Any, TypeVar

import msgspec
import yaml
from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from podidentity.report import error_line, printable

K = TypeVar("K")
T = TypeVar("T")
Part = str | tuple[str, str]
"""A text, or a text and its style."""
PIPE_COLUMNS = 200
"""Width of tables if there is no terminal. Longer cells are folded, never cut."""
_TIMES = re.compile(r"\b\d\d:\d\d:\d\d\b|\b\d+ s\b")
_UNUSUAL = re.compile(r"[^ -~\n]")
LISTED_MAX = 5
"""Names that one text lists by default; further ones are only counted."""


def grouped(pairs: Iterable[tuple[K, T]]) -> defaultdict[K, list[T]]:
    """Return the second elements of *pairs* by the first ones, in their order. An absent key gives an empty list."""
    groups: defaultdict[K, list[T]] = defaultdict(list)
    for key, item in pairs:
        groups[key].append(item)
    return groups


def by_turns(items: Iterable[T], group: Callable[[T], object]) -> list[T]:
    """Return the first item of each group, then the second of each, and so on. Otherwise the order stays.

    For lists that are cut, so that no tenant's objects hide those of others.
    """
    groups = grouped((group(item), (item,)) for item in items)
    # The tuples distinguish an item that is None from the end of a shorter group.
    return [wrapped[0] for several in zip_longest(*groups.values()) for wrapped in several if wrapped is not None]


def namespace_of(name: str) -> str:
    """Return the namespace of `NAMESPACE/NAME`. Any other name is its own group."""
    return name.partition("/")[0]


def timeless(text: str) -> str:
    """Return *text* without times of day and seconds, for comparisons."""
    return _TIMES.sub("…", text)


class Output(StrEnum):
    """Output format."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def console(*, stderr: bool = False) -> Console:
    """Return a console for standard output or error, with the width of the terminal or PIPE_COLUMNS."""
    made = Console(highlight=False, emoji=False, stderr=stderr)
    if not made.is_terminal:
        made.width = PIPE_COLUMNS
    return made


def printable_json(text: str) -> str:
    """Return the JSON *text* with control characters escaped; they only occur inside its strings."""
    return _UNUSUAL.sub(lambda match: match[0] if match[0].isprintable() else _escaped(match[0]), text)


def _escaped(character: str) -> str:
    # An escape of JSON has four digits, so a character beyond U+FFFF has two of them.
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def listed(names: Iterable[str], most: int = LISTED_MAX) -> str:
    """Return *most* of the sorted *names*, the first of each namespace before others, and the number of the rest."""
    several = sorted(names)
    more = f" and {len(several) - most} more" if len(several) > most else ""
    return ", ".join(sorted(by_turns(several, namespace_of)[:most])) + more


def print_document(value: Any, output: Output, to: Console) -> None:
    """Print *value*, of msgspec types, as JSON or YAML."""
    print_text(_json(value) if output is Output.JSON else _yaml(value), to)


def print_text(text: str, to: Console) -> None:
    """Print *text*, which must be printable, as it is: to a file or a pipe in UTF-8, because programs read documents as
    such in every locale. A console needs 2 s for each MiB.
    """
    line = text if text.endswith("\n") else f"{text}\n"
    binary = None if to.file.isatty() else getattr(to.file, "buffer", None)
    try:
        if binary is None:
            to.file.write(line)
        else:
            to.file.flush()
            binary.write(line.encode(errors="backslashreplace"))
        to.file.flush()
    except BrokenPipeError:
        to.on_broken_pipe()


def _json(value: Any) -> str:
    """Return *value* as indented JSON."""
    return printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _yaml(value: Any) -> str:
    """Return *value* as YAML. If it has a control character, all non-ASCII characters are escaped."""
    document = msgspec.to_builtins(value)
    text = _dumped(document, allow_unicode=True)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return _dumped(document, allow_unicode=False)


def _dumped(document: Any, *, allow_unicode: bool) -> str:
    # The dumper in C takes a tenth of the time.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=allow_unicode, width=PIPE_COLUMNS)
    return text


def print_line(to: Console, *parts: Part) -> None:
    """Print one line of *parts*, whose texts may be untrusted: none has markup or controls the terminal."""
    # Not wrapped, so that an operator can copy a command from the line.
    to.print(Text.assemble(*map(_printable, parts)), soft_wrap=True)


def _printable(part: Part) -> Part:
    return printable(part) if isinstance(part, str) else (printable(part[0]), part[1])


class _Cell:
    """A cell of at most *lines_max* lines in a terminal. Elsewhere, or with 0, it is folded."""

    def __init__(self, part: Part, lines_max: int) -> None:
        self._text = Text.assemble(_printable(part), overflow="fold")
        self._lines_max = lines_max

    def __rich_console__(self, to: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._text.wrap(to, options.max_width)
        if to.is_terminal and 0 < self._lines_max < len(lines):
            last = Text(lines[self._lines_max - 1].plain.rstrip() + "…")
            last.truncate(options.max_width, overflow="ellipsis")
            yield from (*lines[: self._lines_max - 1], last)
        else:
            yield from lines

    def __rich_measure__(self, to: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(to, options, self._text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Part]], to: Console, *, cell_lines: int = 0) -> None:
    """Print rows of cells, whose texts may be untrusted. Long cells are folded.

    *cell_lines*: in a terminal, cut cells to this number of lines. No cell of the table may have an action then.
    """
    table = Table(*columns, box=SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    for row in rows:
        table.add_row(*(_Cell(cell, cell_lines) for cell in row))
    to.print(table)


def print_blocks(blocks: Iterable[tuple[Sequence[Sequence[Part]], str]], to: Console) -> None:
    """Print blocks of rows, each with its next action below it, verbatim on one line so that it can be copied.

    The cells are those of `print_table`. All blocks have columns of the same width.
    """
    several = list(blocks)
    rows = [row for rows, _ in several for row in rows]
    widths = [max((Text.assemble(_printable(row[column])).cell_len for row in rows), default=0) for column in (0, 1)]
    for block, action in several:
        table = Table.grid(*(Column(width=width) for width in widths), Column(), padding=(0, 2, 0, 0))
        for row in block:
            table.add_row(*(_Cell(cell, 0) for cell in row))
        to.print(table)
        if action:
            print_line(to, ("  next:", "bold"), f" {action}")


def print_error(line: str) -> int:
    """Print one line, which may have untrusted parts, on stderr and return the exit code 1."""
    print(f"podidctl: {error_line(line)}", file=sys.stderr, flush=True)
    return 1
