"""Each answer of docs/faq.md names issues in which users asked, and tests that exist."""

import re

import pytest

from tests.docs.sentences import ROOT

PAGE = (ROOT / "docs" / "faq.md").read_text()
ANSWERS = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)[1:]
QUESTIONS = dict(zip(ANSWERS[::2], ANSWERS[1::2], strict=True))


def named_tests(answer: str) -> list[tuple[str, str]]:
    """Return the files of tests that an answer names, each with a test in it or an empty text."""
    proof = " ".join(answer.partition("Tested by")[2].split())
    return re.findall(r"`(tests/[\w/.]+)`(?:[^`]*?\(`(\w+)`\))?", proof)


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == 10
    assert all(question.endswith("?") for question in QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_names_the_issues_in_which_users_asked(question: str) -> None:
    asked = re.search(r"^Asked in (.*?)\. Tested by", QUESTIONS[question], re.MULTILINE | re.DOTALL)
    assert asked
    assert re.findall(r"[\w-]+ #\d+", asked[1])


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_names_tests_that_exist(question: str) -> None:
    named = named_tests(QUESTIONS[question])
    assert named
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(), (file, test)
