"""Statements of the pages: figures of their sources, periods of support, rights of the programs, and named tests."""

import re
from typing import Final

import pytest

from tests.repository.docs import threat_tables
from tests.repository.docs.threat_tables import PAGE, exists
from tests.support.checkout import ROOT
from tests.support.rights import granted

ROW: Final = re.compile(
    r"^\| (?P<measure>[^|]+) \| (?P<result>[^|]+) \| \[[^]]+\]\((?P<page>[\w.-]+\.md)[^)]*\) \|$", re.MULTILINE
)
ROWS: Final = [
    (match["measure"], match["result"], match["page"]) for match in ROW.finditer((ROOT / "docs/index.md").read_text())
]
NUMBER: Final = re.compile(r"\d[\d.,]*")
FAQ: Final = re.split(r"^## (.*)\n", (ROOT / "docs" / "faq.md").read_text(), flags=re.MULTILINE)[1:]
ANSWERS: Final = dict(zip(FAQ[::2], FAQ[1::2], strict=True))
SUPPORT: Final = " ".join((ROOT / "docs" / "support.md").read_text().split())
SECURITY: Final = " ".join((ROOT / "SECURITY.md").read_text().split())
RELEASING: Final = " ".join((ROOT / "docs" / "releasing.md").read_text().split())


@pytest.mark.parametrize(("measure", "result", "page"), ROWS, ids=[row[0] for row in ROWS])
def test_each_figure_of_the_landing_page_is_in_its_source(measure: str, result: str, page: str) -> None:
    assert len(ROWS) > 5
    numbers = set(NUMBER.findall((ROOT / "docs" / page).read_text()))
    missing = set(NUMBER.findall(result)) - numbers
    assert not missing, f"{page} no longer has {missing}; copy its new figure into docs/index.md, row {measure!r}"


@pytest.mark.parametrize("question", ANSWERS)
def test_an_answer_of_the_faq_names_issues_of_users_and_tests_that_exist(question: str) -> None:
    assert question.endswith("?")
    match = re.search(r"^Asked in (.*?)\. Tested by\s(.*)", ANSWERS[question], re.MULTILINE | re.DOTALL)
    assert match
    assert re.findall(r"[\w-]+ #\d+", match[1])
    named = re.findall(r"`(tests/[\w/.]+)`(?:[^`]*?\(`(\w+)`\))?", " ".join(match[2].split()))
    assert named
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(), (file, test)


def test_the_periods_of_support_are_the_same_on_all_pages() -> None:
    stated = re.findall(r"(?:two|three|four|six|twelve|\d+) (?:days|weeks|months|years|minor releases)", SUPPORT)
    assert stated == ["three months", "two minor releases", "six months"]
    for period, text in (
        ("three months after", SECURITY),
        ("until the next", SECURITY),
        ("at least two minor releases and six months", RELEASING),
        ("v1.8.17 and earlier", SECURITY.replace("`", "")),
    ):
        assert period in SUPPORT
        assert period in text
    assert "in a major release only" in SUPPORT
    assert "Before its removal in a major version" in RELEASING


def test_the_table_of_rights_has_exactly_those_of_the_chart_each_with_its_reason() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    section = page.partition("### Rights of MIC and NMI\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    stated = {
        (program.strip(), verb, resource)
        for program, resources, verbs, reason in rows
        if reason.strip()
        for resource in resources.split(", ")
        for verb in verbs.split(", ")
    }
    assert stated == {(right.program, right.verb, right.resource.partition(".")[0]) for right in granted()}


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", PAGE.read_text()))))
def test_a_test_that_the_page_names_exists(named: str) -> None:
    assert exists(named)


def test_every_row_of_a_threat_table_is_a_threat_a_promise_and_a_test() -> None:
    assert len(threat_tables.rows()) > 30
    for row in threat_tables.rows():
        assert len(row.cells) == 3, row
        assert all(row.cells), row
        assert re.fullmatch(r"(?:`tests/[^`]+::test_[^`]+`(?:<br>)?)+", row.cells[2]), row
