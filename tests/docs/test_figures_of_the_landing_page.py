"""The figures on the first page of the site are those of the pages that it names as their source."""

import re
from typing import Final

import pytest

from tests.docs.sentences import ROOT

ROW: Final = re.compile(
    r"^\| (?P<measure>[^|]+) \| (?P<result>[^|]+) \| \[[^]]+\]\((?P<page>[\w.-]+\.md)[^)]*\) \|$", re.MULTILINE
)
ROWS: Final = [
    (found["measure"], found["result"], found["page"]) for found in ROW.finditer((ROOT / "docs/index.md").read_text())
]
NUMBER: Final = re.compile(r"\d[\d.,]*")


def test_the_rows_are_found() -> None:
    assert len(ROWS) > 5


@pytest.mark.parametrize(("measure", "result", "page"), ROWS, ids=[each[0] for each in ROWS])
def test_each_figure_is_in_its_source(measure: str, result: str, page: str) -> None:
    numbers = set(NUMBER.findall((ROOT / "docs" / page).read_text()))
    missing = set(NUMBER.findall(result)) - numbers
    assert not missing, f"{page} no longer has {missing}; copy its new figure into docs/index.md, row {measure!r}"
