"""docs/security.md promises nothing that no test shows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "security.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| threat "))
]
NAMED = sorted({named for row in ROWS for named in re.findall(r"`(tests/[^`]+)`", row[-1])})


def written_in(file: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in ast.parse(file.read_text()).body if isinstance(each, kinds)}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_table_names_exists(named: str) -> None:
    file, _, test = named.partition("::")
    assert test.startswith("test_")
    assert test in written_in(ROOT / file)


def test_every_row_is_a_threat_a_promise_and_a_test() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row) == 3, row
        assert all(row), row
        assert re.fullmatch(r"(?:`tests/[^`]+::test_[^`]+`(?:<br>)?)+", row[2]), row
