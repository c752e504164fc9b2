"""The tables of data planes: the page equals the recorded results, and only a passed result is `tested`."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.report.marks import END, standing
from tests.system.node import matrix
from tests.system.node.data_planes import CHECKS, Cell
from tests.system.node.matrix import CellResult, CiliumResult, Results
from tests.system.node.programs import HERE

RUN = {"date": "2026-11-28", "commit": "abc1234", "kernel": "6.18.1", "kubernetes": "1.37.2"}
CELL = Cell(proxy="nftables", cni="ptp", backend="nftables", target="node")
PASSED = CellResult(cell=CELL, selected="nftables", checks=dict.fromkeys(CHECKS, True), **RUN)
TESTS = dict.fromkeys(matrix.names_of_tests("ebpf"), True)
CILIUM = CiliumResult(routing="ebpf", cilium="1.20.2", tests=TESTS, **RUN)


def test_the_page_equals_the_recorded_results() -> None:
    assert standing(matrix.PAGE, matrix.MAKER) == Results(HERE).page(), "run `python -m tests.system.node.matrix`"


@pytest.mark.parametrize("passed", [{"killed": False}, {}], ids=["failed", "missing"])
def test_a_result_with_a_failed_or_missing_check_is_not_tested(tmp_path: Path, passed: dict[str, bool]) -> None:
    results = Results(tmp_path)
    checks = {name: True for name in CHECKS if name != "killed"} | passed
    results.cells[CELL] = msgspec.structs.replace(PASSED, checks=checks)
    assert results.cell_status(CELL) == "fails (killed) 2026-11-28 abc1234"
    newest = list(TESTS)[-1]
    tests = {name: True for name in TESTS if name != newest} | ({newest: False} if passed else {})
    results.cilium["ebpf"] = msgspec.structs.replace(CILIUM, tests=tests)
    assert results.cilium_status("ebpf") == f"fails ({newest}) 2026-11-28 abc1234"


def test_a_cell_of_auto_is_not_selected_if_a_run_selected_the_other_target(tmp_path: Path) -> None:
    results = Results(tmp_path)
    selected = msgspec.structs.replace(CELL, backend="auto")
    results.cells = {selected: msgspec.structs.replace(PASSED, cell=selected)}
    loopback = msgspec.structs.replace(selected, target="loopback")
    assert results.cell_status(loopback) == "not selected"
    assert results.cell_status(msgspec.structs.replace(loopback, cni="bridge")) == "expected"
    assert results.cell_status(CELL) == "expected"


def test_new_results_of_a_commit_are_added_and_written_into_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, kept, page = (tmp_path / name for name in ("new", "kept", "page.md"))
    for folder, date in ((kept, "2026-11-01"), (new, "2026-11-28")):
        folder.mkdir()
        results = Results(folder)
        results.cells[CELL] = msgspec.structs.replace(PASSED, date=date)
        results.cilium["ebpf"] = msgspec.structs.replace(CILIUM, date=date)
        results.save()
    page.write_text(f"before\n<!-- made by: python -m {matrix.MAKER} -->\n{END}\nafter\n")
    other_result = msgspec.structs.replace(PASSED, cell=msgspec.structs.replace(CELL, target="loopback"))
    results = Results(kept)
    results.cells[other_result.cell] = other_result
    results.save()
    monkeypatch.setattr(matrix, "uncommitted", lambda: " M nmi/app.py")
    with pytest.raises(SystemExit, match=r"nmi/app\.py"):
        matrix.main(new, kept, page)
    assert Results(kept).cells[CELL].date == "2026-11-01"
    monkeypatch.setattr(matrix, "uncommitted", lambda: "")
    matrix.main(new, kept, page)
    assert Results(kept).cells == {CELL: PASSED, other_result.cell: other_result}
    assert list(new.iterdir()) == []
    written, tested = standing(page, matrix.MAKER), "tested 2026-11-28 abc1234"
    assert f"| mode nftables | `nftables` | expected | {tested} | expected | {tested} |" in written
    assert f"| eBPF | `cilium` | {tested} |" in written
    assert "| eBPF | `auto`, `iptables-nft`, `iptables-legacy`, `nftables` | not supported |" in written
    assert written.count(f"{tested} |") == 3
    assert page.read_text().endswith("after\n")
