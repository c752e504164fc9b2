"""The compatibility tables: their documents equal the recorded results, and only a passed result is `tested`."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.report.marks import END, standing
from tests.system.node import matrix
from tests.system.node.cilium_programs import Routing
from tests.system.node.data_planes import CHECKS, PROXIES, TARGETS, Cell
from tests.system.node.matrix import CellResult, CiliumResult
from tests.system.node.programs import HERE

RUN = {"date": "2026-11-28", "commit": "abc1234", "kernel": "6.18.1", "kubernetes": "1.37.2"}
CELL = Cell(proxy="nftables", cni="ptp", backend="nftables", target="node")
PASSED = CellResult(cell=CELL, selected="nftables", checks=dict.fromkeys(CHECKS, True), **RUN)
TESTS = matrix.names_of_tests(matrix.MODULES["ebpf"])
CILIUM = CiliumResult(routing="ebpf", cilium="1.20.2", tests=dict.fromkeys(TESTS, True), **RUN)


@pytest.mark.parametrize(
    ("document", "part"), [(matrix.README, matrix.summary), (matrix.PAGE, matrix.page)], ids=["readme", "page"]
)
def test_a_document_equals_the_recorded_results(document: Path, part: matrix.Part) -> None:
    expected = part(matrix.read_cells(HERE), matrix.read_cilium(HERE))
    assert standing(document, matrix.MAKER) == expected, "run `python -m tests.system.node.matrix`"


def test_a_recorded_result_names_backend_and_target() -> None:
    for cell, result in matrix.read_cells(HERE).items():
        assert cell.target in TARGETS, cell
        assert cell.backend in {"auto", result.selected}, cell


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("ran", [True, False], ids=["failed", "missing"])
def test_a_cell_with_a_failed_or_missing_check_is_not_tested(name: str, ran: bool) -> None:
    checks = {each: True for each in CHECKS if each != name} | ({name: False} if ran else {})
    result = msgspec.structs.replace(PASSED, checks=checks)
    assert matrix.cell_status({CELL: PASSED}, CELL, details=True) == "tested 2026-11-28 abc1234"
    assert matrix.cell_status({CELL: result}, CELL, details=False) == f"fails ({name})"


@pytest.mark.parametrize("ran", [True, False], ids=["failed", "missing"])
def test_a_host_routing_with_a_failed_or_missing_test_is_not_tested(ran: bool) -> None:
    name = min(TESTS)
    tests = {each: True for each in TESTS if each != name} | ({name: False} if ran else {})
    routing: Routing = "ebpf"
    assert matrix.cilium_status({}, routing, details=True) == "expected"
    assert matrix.cilium_status({routing: CILIUM}, routing, details=True) == "tested 2026-11-28 abc1234"
    failed = {routing: msgspec.structs.replace(CILIUM, tests=tests)}
    assert matrix.cilium_status(failed, routing, details=False) == f"fails ({name})"


def test_a_cell_of_auto_is_not_selected_if_a_run_selected_the_other_target() -> None:
    selected = msgspec.structs.replace(CELL, backend="auto")
    other = msgspec.structs.replace(selected, target="loopback")
    results = {selected: msgspec.structs.replace(PASSED, cell=selected)}
    assert matrix.cell_status(results, other, details=True) == "not selected"
    assert matrix.cell_status(results, selected, details=False) == "tested"
    loopback = msgspec.structs.replace(CELL, target="loopback")
    assert matrix.cell_status({CELL: PASSED}, loopback, details=True) == "expected"


def test_the_tables_have_each_result_in_its_row_and_column() -> None:
    text = matrix.table({CELL: PASSED}, details=False)
    proxy = PROXIES["nftables"]
    assert f"| {proxy} | `nftables` | expected | expected | expected | tested |" in text
    assert text.count("| tested |") == 1
    text = matrix.cilium_table({"ebpf": CILIUM}, details=False)
    assert "| legacy | `auto` | expected |" in text
    assert "| eBPF | `auto`, `iptables-nft`, `iptables-legacy`, `nftables` | not supported |" in text
    assert "| eBPF | `cilium` | tested |" in text


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """The folder of new results, that of the recorded ones, and documents with an empty section."""
    paths = [tmp_path / name for name in ("new", "kept", "README.md", "page.md")]
    for folder in paths[:2]:
        folder.mkdir()
    for document in paths[2:]:
        document.write_text(f"before\n<!-- made by: python -m {matrix.MAKER} -->\n{END}\nafter\n")
    return paths


def test_new_results_are_added_and_written_into_the_documents(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "uncommitted", lambda: "")
    new, kept, *pages = folders
    other = Cell(proxy="nftables", cni="ptp", backend="nftables", target="loopback")
    earlier = msgspec.structs.replace(PASSED, date="2026-11-01")
    matrix.add(kept, {CELL: earlier, other: msgspec.structs.replace(PASSED, cell=other)}, {})
    matrix.add(new, {CELL: PASSED}, {"ebpf": CILIUM})
    matrix.main(new, kept, pages)
    assert {each.date for each in matrix.read_cells(kept).values()} == {"2026-11-28"}
    assert standing(pages[0], matrix.MAKER).count("tested |") == 3
    assert standing(pages[1], matrix.MAKER).count("tested 2026-11-28 abc1234 |") == 3
    assert pages[0].read_text().endswith("after\n")
    assert list(new.iterdir()) == []


def test_results_of_changes_that_no_commit_contains_are_rejected(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "uncommitted", lambda: " M nmi/app.py")
    new, kept, *pages = folders
    matrix.add(new, {CELL: PASSED}, {})
    with pytest.raises(SystemExit, match=r"nmi/app\.py"):
        matrix.main(new, kept, pages)
    assert matrix.read_cells(kept) == {}
    assert matrix.read_cells(new) == {CELL: PASSED}
