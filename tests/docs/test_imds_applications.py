"""The table of applications that only know IMDS: it equals the recorded results, and only a passed one is `works`."""

from pathlib import Path

import pytest

from benchmarks.report.marks import END, standing
from tests.sdks import imds_table
from tests.sdks.imds_programs import PROGRAMS
from tests.sdks.imds_table import Result

FIRST = PROGRAMS[0]
PASSED = Result(name=FIRST.name, version="1.2.3", date="2026-11-28", checks={"only": True, "named": True})


def row(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {FIRST.name} "))


def test_the_page_equals_the_recorded_results() -> None:
    expected = imds_table.table(imds_table.read(imds_table.RESULTS))
    assert standing(imds_table.PAGE, imds_table.MAKER) == expected, "run `python -m tests.sdks.imds_table`"


def test_each_program_has_a_name_of_its_own() -> None:
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)


def test_a_program_without_a_result_is_not_tried() -> None:
    assert row(imds_table.table({})).endswith("| not tried |")


def test_a_passed_result_has_its_date_version_and_checks() -> None:
    found = row(imds_table.table({FIRST.name: PASSED}))
    assert "1.2.3" in found
    assert found.endswith("| works 2026-11-28: one identity, one of two identities |")


def test_a_failed_check_makes_the_program_fail() -> None:
    failed = Result(name=FIRST.name, version="1", date="2026-11-28", checks={"only": True, "refused": False})
    assert row(imds_table.table({FIRST.name: failed})).endswith("| fails with no identity 2026-11-28 |")


def test_a_result_without_checks_is_not_works() -> None:
    empty = Result(name=FIRST.name, version="1", date="2026-11-28", checks={})
    assert "works" not in row(imds_table.table({FIRST.name: empty}))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_replaces_its_programs_and_keeps_the_others(tmp_path: Path, runs: int) -> None:
    new, results, page = tmp_path / "new.json", tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(f"before\n<!-- made by: python -m {imds_table.MAKER} -->\n{END}\nafter\n")
    other = Result(name=PROGRAMS[1].name, version="1", date="2026-11-27", checks={"only": True})
    gone = Result(name="gone", version="1", date="2026-11-27", checks={"only": True})
    imds_table.add(results, [other, gone])
    for _ in range(runs):
        imds_table.add(new, [PASSED])
        imds_table.main(new, results, page)
    assert not new.exists()
    assert list(imds_table.read(results)) == [PASSED.name, other.name]
    assert page.read_text().startswith("before\n")
    assert "works 2026-11-28" in page.read_text()
