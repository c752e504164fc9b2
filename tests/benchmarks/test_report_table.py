"""The table of a results file, and omitted parts."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paired import judged
from benchmarks.report.table import budgets, figure, grid, short, table, verdict
from benchmarks.results import write
from tests.benchmarks.sample_results import FULL, QUICK


def test_the_head_states_what_was_measured_on_which_machine() -> None:
    head = table(FULL).splitlines()[:3]
    assert head[0] == "2026-01-02 03:04 UTC, commit 0123456789, full run of 14.0 min."
    assert head[1].startswith("A Processor 9000, 2 cores (virtual), 24 GiB, Linux 6.1.0; Python 3.11.7, uvloop 0.23.0")
    assert head[2] == "Load before: 0.1; a hypervisor took 0.4 s of the cores' time."
    bare_metal = replace(FULL, machine=replace(FULL.machine, virtual=False, governor="performance", turbo=False))
    assert "2 cores (bare, governor performance, turbo off)" in table(bare_metal)


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


def test_a_ratio_and_its_quartiles_are_next_to_the_value() -> None:
    (line,) = [each for each in table(FULL).splitlines() if each.startswith("| keep-alive c=32 ") and " nmi " in each]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "keep-alive c=32",
        "nmi",
        "153,270",
        "1.31 [1.27-1.34]",
        "6.49",
        "0.76 [0.74-0.78]",
        "99%",
        "1.95",
        "4.54",
        "209",
        "334",
        "605",
    ]


def test_disturbances_and_unexpected_answers_are_below_the_case() -> None:
    case = FULL.cases[0]
    servers = {"nmi": replace(case.servers["nmi"], statuses={200: 9, 503: 1_000}, errors={"reset": 2})}
    text = table(replace(FULL, cases=(replace(case, dirty=4, servers=servers),)))
    assert "15 rounds, 2 measurements redone, 4 DISTURBED. Not 200: nmi 1,000 x 503, 2 x reset." in text
    assert "DISTURBED" not in table(FULL)
    assert "Not 200" not in table(FULL)


def test_each_component_has_its_line() -> None:
    lines = [" ".join(line.split()) for line in table(FULL).splitlines()]
    assert "| keep-alive c=32 | 15 | 1 | 1.004 [0.984-1.034] |" in " ".join(lines)
    assert "| 50,000 | nmi | 171 | 494 | 1,330 | 4,370 | 30.0 | 0 |" in lines
    assert "| full re-list | 400,000 | 95.0 | 510 | 1,530 | 6,970 | 3 | 0 |" in lines
    assert "* full re-list: full re-list, ten times." in lines
    assert "| 250 | 48.2 | 55.4 |" in lines
    assert "| scan | SDKs' requests | 126 | 5,400 (42.9 x) | 724 (5.7 x) |" in lines
    assert "| 10,000 | 0.98 | 49.4 | 128 | 520 |" in lines
    assert "| 100,000 | 11.7 | 58.0 | 899 | not measured |" in lines
    assert "* Pods are loopback addresses: no network card, no nat rule." in lines


def test_an_unmeasured_component_has_no_line() -> None:
    empty = replace(
        FULL,
        control=None,
        cases=(),
        open_loop=(),
        background=(),
        memory=(),
        micro=(),
        controller=(),
        budgets=(),
        left_out=(),
    )
    assert "|" not in table(empty)
    assert "**" not in table(empty)
    assert table(empty).count("\n\n") == 1, "head and verdict alone"


@pytest.mark.parametrize("made", [table(FULL), short(FULL)], ids=["table", "short"])
def test_a_terminal_gets_columns_and_lines_that_fit(made: str) -> None:
    tables = [block.splitlines() for block in made.split("\n\n") if block.startswith("|")]
    assert tables
    for lines in tables:
        bars = {tuple(at for at, letter in enumerate(line) if letter == "|") for line in lines}
        assert len(bars) == 1, lines
        assert len(lines[0]) <= 160


def test_the_short_form_compares_each_case_in_one_line() -> None:
    lines = [" ".join(line.split()) for line in short(FULL).splitlines()]
    assert "| keep-alive c=32 | 153,270 | 1.31 [1.27-1.34] | 0.76 [0.74-0.78] | 0.76 | 0.84 | 0.55 | 0.09 |" in lines
    assert sum(line.startswith("| keep-alive c=32 |") for line in lines) == 1
    assert verdict(FULL) in short(FULL)
    assert "generator late" not in short(FULL)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, "0.00"), (1.236, "1.24"), (56.04, "56.0"), (153_270.4, "153,270"), (99.96, "100.0")]
)
def test_a_value_has_about_three_significant_digits(value: float, expected: str) -> None:
    assert figure(value) == expected


def test_a_table_without_rows_is_empty() -> None:
    assert grid(["a", "b"], []) == ""
    assert grid(["a", "b"], [["x", "1"]]) == "| a   |   b |\n| --- | --: |\n| x   |   1 |"


def test_the_program_prints_the_table_of_a_file(tmp_path: Path) -> None:
    file = write(FULL, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report.table", str(file)], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{table(FULL)}\n"
