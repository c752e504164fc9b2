"""The check of banned phrases finds them in text and in names, and its budget only shrinks."""

import json

import pytest

from tools.language.__main__ import BUDGET, PHRASES, findings, over_budget, read_phrases

ALL = read_phrases(PHRASES.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "Whoever may write it",
        "def test_nobody_gets_it()",
        "MIC is told",
        "# the pod is\n    # told so",
        "as the reference does",
    ],
)
def test_a_banned_phrase_is_found(text: str) -> None:
    assert len(list(findings("a.py", text, ALL))) == 1


@pytest.mark.parametrize(
    "text",
    ["reference: pkg/mic/mic.go", "the reference to the object", "a besieged town", "he goes bye", "is toldable"],
)
def test_other_text_is_not(text: str) -> None:
    assert list(findings("a.py", text, ALL)) == []


def test_a_finding_names_its_line_and_the_key_of_its_budget() -> None:
    (found,) = findings("tests/nmi/tokens/test_a.py", "a\n\nanew", ALL)
    assert (found.line, found.directory) == (3, "tests/nmi")
    (found,) = findings("nmi/tokens/a.py", "anew", ALL)
    assert found.directory == "nmi"
    (found,) = findings("README.md", "anew", ALL)
    assert found.directory == "."


def test_more_than_the_budget_fails() -> None:
    assert over_budget({"a": 2, "b": 1, "c": 1}, {"a": 1, "b": 1}) == ["a", "c"]


def test_the_budget_names_directories_with_phrases_only() -> None:
    assert all(count > 0 for count in json.loads(BUDGET.read_text()).values())
