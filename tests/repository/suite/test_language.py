"""The check of banned phrases finds them in text and in names, and its budget only shrinks."""

import json

import pytest

from tools.language.__main__ import BUDGET, PHRASES, findings, over_budget, read_phrases

ALL = read_phrases(PHRASES.read_text())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Whoever may write it", 1),
        ("def test_nobody_gets_it()", 1),
        ("MIC is told", 1),
        ("# the pod is\n    # told so", 1),
        ("as the reference does", 1),
        ("reference: pkg/mic/mic.go", 0),
        ("the reference to the object", 0),
        ("a besieged town", 0),
        ("is toldable", 0),
    ],
)
def test_a_banned_phrase_is_found_and_other_text_is_not(text: str, count: int) -> None:
    assert len(list(findings("a.py", text, ALL))) == count


def test_a_finding_names_its_line_and_the_key_of_its_budget() -> None:
    (finding,) = findings("tests/nmi/tokens/test_a.py", "a\n\nanew", ALL)
    assert (finding.line, finding.directory) == (3, "tests/nmi")
    (finding,) = findings("nmi/tokens/a.py", "anew", ALL)
    assert finding.directory == "nmi"
    (finding,) = findings("README.md", "anew", ALL)
    assert finding.directory == "."


def test_more_than_the_budget_fails() -> None:
    assert over_budget({"a": 2, "b": 1, "c": 1}, {"a": 1, "b": 1}) == ["a", "c"]
    assert all(count > 0 for count in json.loads(BUDGET.read_text()).values())
