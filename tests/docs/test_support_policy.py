"""docs/support.md states the periods that SECURITY.md and docs/releasing.md promise."""

import re
from typing import Final

import pytest

from tests.docs.sentences import ROOT

SUPPORT: Final = (ROOT / "docs" / "support.md").read_text()
SECURITY: Final = (ROOT / "SECURITY.md").read_text()
RELEASING: Final = (ROOT / "docs" / "releasing.md").read_text()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("period", "other"),
    [
        ("three months after", SECURITY),
        ("until the next", SECURITY),
        ("at least two minor releases and six months", RELEASING),
        ("v1.8.17 and earlier", SECURITY.replace("`", "")),
    ],
)
def test_a_period_is_the_same_on_both_pages(period: str, other: str) -> None:
    assert period in words(SUPPORT)
    assert period in words(other)


def test_no_other_period_is_stated() -> None:
    stated = re.findall(r"(?:two|three|four|six|twelve|\d+) (?:days|weeks|months|years|minor releases)", words(SUPPORT))
    assert stated == ["three months", "two minor releases", "six months"]


def test_a_removal_needs_a_major_release_on_both_pages() -> None:
    assert "in a major release only" in words(SUPPORT)
    assert "Before its removal in a major version" in words(RELEASING)
