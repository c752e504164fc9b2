"""Every promise in docs/security.md names existing tests."""

import re

import pytest

from tests.docs.threat_tables import PAGE, exists, rows

ROWS = rows()


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", PAGE.read_text()))))
def test_a_test_that_the_page_names_exists(named: str) -> None:
    assert exists(named)


def test_every_row_is_a_threat_a_promise_and_a_test() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row.cells) == 3, row
        assert all(row.cells), row
        assert re.fullmatch(r"(?:`tests/[^`]+::test_[^`]+`(?:<br>)?)+", row.cells[2]), row
