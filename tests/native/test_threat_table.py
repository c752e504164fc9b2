"""The docstring of `_native` names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

import _native

HERE = Path(__file__).parent
TABLE = (_native.__doc__ or "").partition("the tests (in tests/native) that show them:\n\n")[2]
NAMED = [line.strip() for line in TABLE.splitlines() if line.startswith("    ")]


def written_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in tree.body if isinstance(each, kinds) and each.name.startswith("test_")}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_table_names_exists(named: str) -> None:
    file, _, test = named.partition("::")
    assert test in written_in(HERE / file)


def test_every_promise_names_a_test() -> None:
    promises = re.findall(r"^  (?! )[^\n]+\n(    \S+::\S+\n)?", TABLE + "\n", re.MULTILINE)
    assert len(promises) > 10
    assert all(promises)
