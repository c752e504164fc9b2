"""Results files, the report of one run, and the generated part of docs/performance.md: the newest accepted run."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.paired import budget
from benchmarks.report.marks import END, put, standing
from benchmarks.report.newest import DOCUMENT, MAKER, NONE, made, newest
from benchmarks.report.table import FILE, budgets, table, verdict
from benchmarks.results import FOLDER, SCHEMA, Results, file_name, read, write
from tests.repository.benchmarks.sample_results import BEST, FULL, QUICK


def later(days: float, commit: str, **changes: object) -> Results:
    return replace(FULL, date=FULL.date + timedelta(days=days), commit=commit, **changes)  # type: ignore[arg-type]


def test_every_committed_results_file_can_be_written_again_and_names_no_directory(tmp_path: Path) -> None:
    for file in FOLDER.glob("2*.json"):
        results = read(file)
        assert file.name == file_name(results)
        assert read(write(results, tmp_path)) == results
        assert not any(word in file.read_text() for word in ('"/', "/home", "/tmp"))
    assert file_name(later(0, "0123456789", changed=True)).endswith("-0123456789+.json")


def test_a_file_of_another_schema_is_rejected(tmp_path: Path) -> None:
    file = write(replace(FULL, schema=SCHEMA + 1), tmp_path)
    with pytest.raises(ValueError, match=f"has schema {SCHEMA + 1}, this is {SCHEMA}: read it with the suite of"):
        read(file)


@pytest.mark.parametrize("body", ["", '{"schema": 1, "date": "yesterday"}'])
def test_an_invalid_results_file_is_rejected(tmp_path: Path, body: str) -> None:
    file = tmp_path / "odd.json"
    file.write_text(body)
    with pytest.raises(ValueError, match=r"odd\.json is no results file of this suite .*run `make bench` again"):
        read(file)


def test_the_verdict_is_one_line_with_the_reasons() -> None:
    assert verdict(FULL).startswith("Accepted: the same server measured twice agrees within 2%")
    assert verdict(QUICK).startswith("A quick run for an overview: only a full one")
    against = verdict(replace(QUICK, changed=True, control=None))
    assert against == "Not accepted: files differed from the commit; there was no control."


@pytest.mark.parametrize(("got", "word"), [(1.31, "aim met"), (1.25, "met"), (1.1, "MISSED"), (None, "?")])
def test_a_budget_states_whether_it_is_met(got: float | None, word: str) -> None:
    row = budgets(replace(FULL, budgets=(budget("speed", got, "at least", 1.2, aim=1.3),))).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["speed", "≥ 1.20 x", "1.30 x", "not measured" if got is None else f"{got:.2f} x", word]


def test_disturbances_and_unexpected_responses_are_below_the_case() -> None:
    servers = {"nmi": replace(BEST.servers["nmi"], statuses={200: 9, 503: 1_000}, errors={"reset": 2})}
    text = table(replace(FULL, cases=(replace(BEST, redone=2, dirty=4, servers=servers),)))
    assert "15 rounds, 2 measurements redone, 4 DISTURBED. Not 200: nmi 1,000 x 503, 2 x reset." in text
    assert "DISTURBED" not in table(FULL)
    assert "Not 200" not in table(FULL)


def test_the_page_and_its_table_equal_the_output_for_the_newest_accepted_run() -> None:
    assert standing(DOCUMENT, MAKER) == made(DOCUMENT)
    run = newest()
    assert run
    file, results = run
    assert (file.with_suffix("") / FILE).read_text() == table(results) + "\n"


def test_the_latest_accepted_full_run_is_used(tmp_path: Path) -> None:
    write(later(3, "3333333333", full=False), tmp_path)
    write(later(4, "4444444444", control=None), tmp_path)
    assert made(tmp_path / "page.md", tmp_path) == NONE
    write(FULL, tmp_path)
    write(later(1, "1111111111"), tmp_path)
    last = later(1.001, "0000000000")
    file = write(last, tmp_path)
    (tmp_path / "controller-2027-01-01-5555555555.json").write_text("{}")
    assert newest(tmp_path) == (file, last), "the later one of a day"


@pytest.mark.parametrize(
    "text", ["no marks", f"<!-- made by: python -m {MAKER} -->", f"{END} <!-- made by: python -m another -->"]
)
def test_a_document_without_the_marks_is_not_written(tmp_path: Path, text: str) -> None:
    document = tmp_path / "README.md"
    document.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md has no lines .*: insert them where the generated part belongs"):
        put(document, MAKER, "made")
    assert document.read_text() == text
