"""The table of results in docs/reliability.md."""

from pathlib import Path

import msgspec
import pytest

from tests.realnode import report
from tests.realnode.evaluation import Result

RESULT = Result(scenario="NMI killed", interruption_seconds=5.25, refused=40, leaked=1)


def test_a_result_is_a_row_of_the_table() -> None:
    lines = report.table([RESULT], "Run: now.").splitlines()
    assert "| NMI killed | 5.2 | 40 | 0 | 1 | 0 |" in lines
    assert lines[-1] == "Run: now."


def test_the_table_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "circumstances", lambda: "Run: now.")
    document, results = tmp_path / "reliability.md", tmp_path / "results.json"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    results.write_bytes(msgspec.json.encode([RESULT]))
    report.main(results, document)
    text = document.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n| event |")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text


def test_a_document_without_the_section_is_not_changed() -> None:
    with pytest.raises(ValueError, match="has no section"):
        report.replaced("text", "table")


def test_the_page_has_the_section() -> None:
    assert report.replaced(report.DOCUMENT.read_text(), "").count(report.BEGIN) == 1


def test_without_results_the_page_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run: make e2e-node"):
        report.main(tmp_path / "none.json", tmp_path / "reliability.md")
