"""The table of MIC's costs in the documentation is generated from a results file, and reports a MIC that stays busy."""

import json
from pathlib import Path

from benchmarks.controller.table import DOCUMENT, MAKER, TOKENS, table, tokens_table
from benchmarks.report.marks import standing

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEADER = {
    "commit": "0123456789",
    "date": "2026-01-01",
    "machine": {"cpu": "a processor", "cores": 2, "kernel": "6.1", "python": "3.11.7"},
    "load": {"before quick": 0.1, "after": 1.5},
}


def test_the_document_contains_the_table_of_one_of_the_results_files() -> None:
    assert standing(DOCUMENT, MAKER) in {
        table(json.loads(file.read_text())) for file in RESULTS.glob("controller-*.json")
    }


def test_the_document_contains_the_first_tokens_of_one_results_file() -> None:
    assert standing(DOCUMENT, TOKENS) in {
        tokens_table(json.loads(file.read_text())) for file in RESULTS.glob("controller-*.json")
    } - {""}


def test_no_results_file_names_a_machine_or_a_directory() -> None:
    for file in RESULTS.glob("controller-*.json"):
        found = json.loads(file.read_text())
        assert set(found["machine"]) == {"cpu", "cores", "kernel", "python", "uvloop", "memory_gib"}
        assert all("/" not in str(value) for value in (*found["machine"].values(), found["commit"], found["date"]))
        assert all(set(map(type, row.values())) <= {str, int, float} for row in found["rows"])


def test_a_mic_that_does_not_become_quiet_is_reported() -> None:
    figures = {"quiet_s": 121.4, "quiet": False, "idle_share": 0.31, "cpu_s": 40.0, "peak_mib": 200.0, "gets": 520}
    rows = [
        {"case": case, "operation_seconds": 0.0, **figures}
        for case in ("start, nothing in the cluster", "start, all assigned")
    ]
    assert "| not quiet after 121 s (31.0% of a core), 40.0 CPU s" in table({**HEADER, "rows": rows})
