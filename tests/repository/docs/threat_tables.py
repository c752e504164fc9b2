"""The threat tables of docs/threats.md: one row for each threat, with its promise and its tests."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.checkout import ROOT

PAGE: Final = ROOT / "docs" / "threats.md"


@dataclass(frozen=True)
class Row:
    """One row of a threat table."""

    line: int
    """Line number in docs/threats.md, counted from 1."""
    section: str
    """The heading above the table."""
    cells: tuple[str, ...]

    @property
    def threat(self) -> str:
        """Return the first cell."""
        return self.cells[0]

    @property
    def tests(self) -> tuple[str, ...]:
        """Return the tests that the last cell names, as FILE::FUNCTION."""
        return tuple(re.findall(r"`(tests/[^`]+)`", self.cells[-1]))


def rows() -> list[Row]:
    """Return the rows of all threat tables in the order of the page."""
    table: list[Row] = []
    section, inside = "", False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if line.startswith("## "):
            section = line.removeprefix("## ")
        inside = line.startswith("| ") and (inside or line.startswith("| threat "))
        if inside and not line.startswith(("| ---", "| threat ")):
            table.append(Row(number, section, tuple(cell.strip() for cell in line.strip("|").split("|"))))
    return table


@cache
def functions(file: Path) -> frozenset[str]:
    """Return the names of the functions that *file* defines at its top level."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.parse(file.read_text()).body if isinstance(node, kinds))


def exists(test: str) -> bool:
    """Return whether *test*, written FILE::FUNCTION, is defined."""
    file, _, function = test.partition("::")
    return (ROOT / file).is_file() and function.startswith("test_") and function in functions(ROOT / file)
