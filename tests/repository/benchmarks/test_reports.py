"""Results files, the report of one run, and the generated part of docs/performance.md: the newest accepted run."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.paired import judged
from benchmarks.report.marks import END, put, standing
from benchmarks.report.newest import DOCUMENT, MAKER, NONE, made, newest
from benchmarks.report.table import budgets, table, verdict
from benchmarks.results import FOLDER, SCHEMA, Results, file_name, read, write
from tests.repository.benchmarks.sample_results import FULL, QUICK, control

FRAME = f"# A title\n\n<!-- made by: python -m {MAKER} -->\nold\n{END}\n\nThe rest.\n"


def later(days: int, commit: str, found: Results = FULL) -> Results:
    return replace(found, date=found.date + timedelta(days=days), commit=commit)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "benchmarks" / "results"


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    file = tmp_path / "README.md"
    file.write_text(FRAME)
    return file


def test_a_written_file_can_be_read_and_its_name_contains_day_and_commit(tmp_path: Path) -> None:
    file = write(FULL, tmp_path / "results")
    assert read(file) == FULL
    assert file.name == "2026-01-02-0123456789.json"
    assert file_name(replace(FULL, changed=True)) == "2026-01-02-0123456789+.json"


def test_a_file_of_another_schema_is_rejected(tmp_path: Path) -> None:
    file = write(replace(FULL, schema=SCHEMA + 1), tmp_path)
    with pytest.raises(ValueError, match=f"has schema {SCHEMA + 1}, this is {SCHEMA}: read it with the suite of"):
        read(file)


@pytest.mark.parametrize("body", ["", "[]", '{"schema": 1}', '{"schema": 1, "date": "yesterday"}'])
def test_an_invalid_results_file_is_rejected(tmp_path: Path, body: str) -> None:
    file = tmp_path / "odd.json"
    file.write_text(body)
    with pytest.raises(ValueError, match=r"odd\.json is no results file of this suite .*run `make bench` again"):
        read(file)


def test_every_committed_results_file_can_be_read_and_names_no_directory() -> None:
    for file in FOLDER.glob("2*.json"):
        found = read(file)
        assert file.name == file_name(found)
        assert not any(word in file.read_text() for word in ('"/', "/home", "/tmp"))


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


def test_the_page_equals_the_output_for_the_newest_accepted_run_and_has_its_plots() -> None:
    page = made(DOCUMENT)
    assert standing(DOCUMENT, MAKER) == page
    shown = [line.partition("](")[2].removesuffix(")") for line in page.splitlines() if line.startswith("![")]
    assert bool(shown) == bool(newest())
    for picture in shown:
        assert (DOCUMENT.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_the_latest_accepted_full_run_is_used(results: Path) -> None:
    write(FULL, results)
    best = write(later(1, "1111111111"), results)
    write(replace(later(2, "2222222222"), full=False), results)
    write(replace(later(3, "3333333333"), control=control(0.03)), results)
    write(replace(later(4, "4444444444"), changed=True), results)
    (results / "controller-2027-01-01-5555555555.json").write_text("{}")
    assert newest(results) == (best, later(1, "1111111111"))
    last = later(1, "0000000000", replace(FULL, date=FULL.date + timedelta(hours=1)))
    file = write(last, results)
    assert newest(results) == (file, last), "the later one of a day"


def test_the_absence_of_an_accepted_run_is_reported(results: Path, readme: Path) -> None:
    assert made(readme, results) == NONE
    write(replace(FULL, full=False), results)
    assert made(readme, results) == NONE


@pytest.mark.parametrize("text", ["no marks", FRAME.replace(END, ""), f"{END} <!-- made by: python -m another -->"])
def test_a_document_without_the_markers_is_not_written(readme: Path, text: str) -> None:
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md has no lines .*: insert them where the generated part belongs"):
        put(readme, MAKER, "made")
    assert readme.read_text() == text
