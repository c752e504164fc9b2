"""The table of applications that only know IMDS: it equals the recorded results, and only a passed one is `works`."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.report.marks import END, standing
from tests.system.sdks import imds_table
from tests.system.sdks.imds_programs import PROGRAMS
from tests.system.sdks.imds_table import Result

FIRST = PROGRAMS[0]
PASSED = Result(name=FIRST.name, version="1.2.3", date="2026-11-28", checks={"only": True, "named": True})


def test_the_page_equals_the_recorded_results() -> None:
    expected = imds_table.table(imds_table.read(imds_table.RESULTS))
    assert standing(imds_table.PAGE, imds_table.MAKER) == expected, "run `python -m tests.system.sdks.imds_table`"


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        (None, "not tried"),
        ({}, "not tried"),
        ({"only": True, "named": True}, "works 2026-11-28: one identity, one of two identities"),
        ({"only": True, "refused": False}, "fails with no identity 2026-11-28"),
    ],
    ids=["no result", "no checks", "passed", "one failed"],
)
def test_a_row_has_its_date_version_and_checks(checks: dict[str, bool] | None, status: str) -> None:
    results = {} if checks is None else {FIRST.name: msgspec.structs.replace(PASSED, checks=checks)}
    (row,) = (line for line in imds_table.table(results).splitlines() if line.startswith(f"| {FIRST.name} "))
    assert row.endswith(f"| {status} |")
    assert ("1.2.3" in row) == bool(results)


def test_a_run_replaces_its_programs_and_keeps_the_others(tmp_path: Path) -> None:
    new, results, page = tmp_path / "new.json", tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(f"before\n<!-- made by: python -m {imds_table.MAKER} -->\n{END}\nafter\n")
    other, gone = (msgspec.structs.replace(PASSED, name=name) for name in (PROGRAMS[1].name, "gone"))
    imds_table.add(results, [other, gone])
    for _ in range(2):
        imds_table.add(new, [PASSED])
        imds_table.main(new, results, page)
    assert not new.exists()
    assert list(imds_table.read(results)) == [PASSED.name, other.name]
    assert page.read_text().startswith("before\n")
    assert "works 2026-11-28" in page.read_text()
