"""The compatibility matrix: its documents equal the recorded results, and only a passed result is `tested`."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks.report.marks import END, standing
from tests.realnode import cilium_results, matrix
from tests.realnode.data_planes import CHECKS, PROXIES, TARGETS, Cell
from tests.realnode.matrix import CellResult, Records

CELL = Cell(proxy="nftables", cni="ptp", backend="nftables", target="node")
PASSED = CellResult(
    cell=CELL,
    date="2026-11-28",
    commit="abc1234",
    kernel="6.18.1",
    kubernetes="1.37.2",
    selected="nftables",
    checks=dict.fromkeys(CHECKS, True),
)


def row(text: str, proxy: str, backend: str) -> list[str]:
    """Return the cells of the row of a backend, without its first two."""
    rows = ([each.strip() for each in line.strip("|").split("|")] for line in text.splitlines())
    (found,) = (cells for node, backends, *cells in rows if node == proxy and f"`{backend}`" in backends.split(", "))
    return found


@pytest.mark.parametrize(
    ("document", "part"), [(matrix.README, matrix.summary), (matrix.PAGE, matrix.page)], ids=["readme", "page"]
)
def test_a_document_equals_the_recorded_results(document: Path, part: matrix.Part) -> None:
    expected = part(matrix.read(matrix.RESULTS), cilium_results.read(cilium_results.RESULTS))
    assert standing(document, matrix.MAKER) == expected, "run `python -m tests.realnode.matrix`"


def test_a_recorded_result_names_backend_and_target() -> None:
    for cell, result in matrix.read(matrix.RESULTS).items():
        assert cell.target in TARGETS, cell
        assert cell.backend in {"auto", result.selected}, cell


def test_a_cell_whose_checks_passed_is_tested_with_date_and_commit() -> None:
    assert matrix.status({CELL: PASSED}, CELL, details=False) == "tested"
    assert matrix.status({CELL: PASSED}, CELL, details=True) == "tested 2026-11-28 abc1234"


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("ran", [True, False])
def test_a_cell_with_a_failed_or_missing_check_is_not_tested(name: str, ran: bool) -> None:
    checks = {**PASSED.checks, name: False}
    if not ran:
        del checks[name]
    result = msgspec.structs.replace(PASSED, checks=checks)
    assert matrix.status({CELL: result}, CELL, details=False) == f"fails ({name})"


def test_a_cell_of_auto_is_not_selected_if_a_run_selected_the_other_target() -> None:
    selected = msgspec.structs.replace(CELL, backend="auto")
    other = msgspec.structs.replace(selected, target="loopback")
    results = {selected: msgspec.structs.replace(PASSED, cell=selected)}
    assert matrix.status(results, other, details=True) == "not selected"
    assert matrix.status(results, selected, details=False) == "tested"
    assert matrix.status({CELL: PASSED}, msgspec.structs.replace(CELL, target="loopback"), details=True) == "expected"


def test_the_table_has_each_result_in_the_column_of_its_target_and_plugin() -> None:
    text = matrix.table({CELL: PASSED}, details=False)
    assert row(text, PROXIES["nftables"], "nftables") == ["expected", "expected", "expected", "tested"]
    assert row(text, PROXIES["nftables"], "auto") == ["expected"] * 4
    assert text.count("| tested |") == 1


def documents(folder: Path) -> Sequence[Path]:
    """Return documents with an empty section."""
    found = [folder / "README.md", folder / "page.md"]
    for each in found:
        each.write_text(f"before\n<!-- made by: python -m {matrix.MAKER} -->\n{END}\nafter\n")
    return found


def records(folder: Path) -> tuple[Records, Records]:
    """Return the names of files of new and of recorded results in a folder."""
    new, recorded = (Records(folder / f"{name}.json", folder / f"{name}-cilium.json") for name in ("new", "recorded"))
    return new, recorded


def test_new_results_are_added_and_written_into_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "uncommitted", lambda: "")
    (new, recorded), pages = records(tmp_path), documents(tmp_path)
    other = Cell(proxy="nftables", cni="ptp", backend="nftables", target="loopback")
    earlier = msgspec.structs.replace(PASSED, date="2026-11-01")
    matrix.add(recorded.data_planes, [earlier, msgspec.structs.replace(PASSED, cell=other)])
    matrix.add(new.data_planes, [PASSED])
    matrix.main(new, recorded, pages)
    assert {each.date for each in matrix.read(recorded.data_planes).values()} == {"2026-11-28"}
    assert standing(pages[0], matrix.MAKER).count("tested |") == 2
    assert standing(pages[1], matrix.MAKER).count("tested 2026-11-28 abc1234 |") == 2
    assert pages[0].read_text().endswith("after\n")
    assert not new.data_planes.exists()


def test_results_of_changes_that_no_commit_contains_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "uncommitted", lambda: " M nmi/app.py")
    new, recorded = records(tmp_path)
    matrix.add(new.data_planes, [PASSED])
    with pytest.raises(SystemExit, match=r"nmi/app\.py"):
        matrix.main(new, recorded, documents(tmp_path))
    assert matrix.read(recorded.data_planes) == {}
    assert new.data_planes.exists()
