"""The generated part of docs/performance.md equals the newest accepted run."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.report.marks import END, put, standing
from benchmarks.report.newest import DOCUMENT, MAKER, NONE, made, newest
from benchmarks.results import Results, write
from tests.benchmarks.sample_results import FULL, control

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


def test_the_page_equals_the_output_for_the_newest_accepted_run() -> None:
    assert standing(DOCUMENT, MAKER) == made(DOCUMENT)


def test_the_plots_on_the_page_exist() -> None:
    run = newest()
    shown = [line.partition("](")[2].removesuffix(")") for line in made(DOCUMENT).splitlines() if line.startswith("![")]
    assert bool(shown) == bool(run)
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


def test_of_two_runs_of_one_day_the_later_one_is_used(results: Path) -> None:
    write(replace(FULL, commit="ffffffffff"), results)
    write(replace(FULL, commit="0000000000", date=FULL.date + timedelta(hours=1)), results)
    found = newest(results)
    assert found is not None
    assert found[1].commit == "0000000000"


def test_the_absence_of_an_accepted_run_is_reported(results: Path, readme: Path) -> None:
    assert made(readme, results) == NONE
    write(replace(FULL, full=False), results)
    assert made(readme, results) == NONE


def test_a_manually_edited_value_is_detected(results: Path, readme: Path) -> None:
    write(FULL, results)
    put(readme, MAKER, made(readme, results).replace("1.31 [", "1.41 ["))
    assert standing(readme, MAKER) != made(readme, results)


@pytest.mark.parametrize("text", ["no marks", FRAME.replace(END, ""), f"{END} <!-- made by: python -m another -->"])
def test_a_document_without_the_markers_is_not_written(readme: Path, text: str) -> None:
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md has no lines .*: insert them where the generated part belongs"):
        put(readme, MAKER, "made")
    assert readme.read_text() == text
