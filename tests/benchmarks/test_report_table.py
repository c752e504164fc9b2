"""The table of a results file states misses, disturbances and wrong responses."""

from dataclasses import replace

import pytest

from benchmarks.paired import judged
from benchmarks.report.table import budgets, table, verdict
from tests.benchmarks.sample_results import FULL, QUICK


def test_the_verdict_is_one_line_with_the_reasons() -> None:
    assert verdict(FULL).startswith("Accepted: the same server measured twice agrees within 2%")
    assert verdict(QUICK).startswith("A quick run for an overview: only a full one")
    against = verdict(replace(FULL, changed=True, control=None))
    assert against == "Not accepted: files differed from the commit; there was no control."
    assert verdict(replace(QUICK, control=None)).startswith("Not accepted")


@pytest.mark.parametrize(
    ("got", "word"),
    [(1.31, "aim met"), (1.25, "met"), (1.1, "MISSED"), (None, "?")],
    ids=["aim", "met", "missed", "not"],
)
def test_a_budget_states_whether_it_is_met(got: float | None, word: str) -> None:
    row = budgets(replace(FULL, budgets=(judged("speed", got, "at least", 1.2, aim=1.3),))).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["speed", "≥ 1.20 x", "1.30 x", "not measured" if got is None else f"{got:.2f} x", word]


def test_disturbances_and_unexpected_answers_are_below_the_case() -> None:
    case = FULL.cases[0]
    servers = {"nmi": replace(case.servers["nmi"], statuses={200: 9, 503: 1_000}, errors={"reset": 2})}
    text = table(replace(FULL, cases=(replace(case, dirty=4, servers=servers),)))
    assert "15 rounds, 2 measurements redone, 4 DISTURBED. Not 200: nmi 1,000 x 503, 2 x reset." in text
    assert "DISTURBED" not in table(FULL)
    assert "Not 200" not in table(FULL)
