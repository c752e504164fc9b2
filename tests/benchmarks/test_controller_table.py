"""The table of MIC's costs in the documentation is generated from a results file."""

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


def test_a_figure_is_next_to_its_target_and_the_go_implementations_figure() -> None:
    row = {
        "case": "one pod",
        "operation_seconds": 5.0,
        "median_s": 5.3761,
        "longest_s": 5.4,
        "patches": 1.0,
        "gets": 2.0,
    }
    made = table({**HEADER, "rows": [row]})
    assert "| 1 pod | 5.38 s | 5.5 s | 1 PATCH, 2 GET | 10.0 s | not measured |" in made
    assert "40 pods" not in made, "a part that was not measured has no line"
    assert "Load before the parts: 0.1 to 1.5." in made


def test_an_idle_mic_has_its_share_of_a_core() -> None:
    row = {"case": "idle, one interval", "operation_seconds": 0.0, "gets": 520, "hosts": 520, "interval_s": 30}
    row |= {"most_gets_in_a_second": 18, "cpu_s": 0.9, "rss_mib": 100.0}
    assert "at most 18 in a second |" in table({**HEADER, "rows": [row]}), "from before it was measured"
    made = table({**HEADER, "rows": [row | {"idle_share": 0.031, "wake_ups_a_second": 51.6}]})
    assert "at most 18 in a second; 3.1% of a core, 52 wake-ups a second |" in made


def test_a_mic_that_does_not_become_quiet_is_reported() -> None:
    figures = {"quiet_s": 121.4, "quiet": False, "idle_share": 0.31, "cpu_s": 40.0, "peak_mib": 200.0, "gets": 520}
    rows = [
        {"case": case, "operation_seconds": 0.0, **figures}
        for case in ("start, nothing in the cluster", "start, all assigned")
    ]
    assert "| not quiet after 121 s (31.0% of a core), 40.0 CPU s" in table({**HEADER, "rows": rows})


def test_first_tokens_of_both_kinds_are_in_one_row() -> None:
    rows = [
        {"case": "first token, type 3", "operation_seconds": 0.0, "median_s": 0.1234, "longest_s": 0.2},
        {"case": "first token, type 0", "operation_seconds": 40.0, "median_s": 40.321, "longest_s": 41.0},
    ]
    made = tokens_table({**HEADER, "rows": rows})
    assert "| federated identity (type 3), AAD 50 ms | 0.12 s | 0.15 s of a warm node with AAD at 50 ms |" in made
    assert "| user-assigned identity (type 0), operation 40 s | 40.32 s | 41 s |" in made
    assert "(type 0), operation 5 s" not in made


def test_a_watch_stream_is_next_to_its_aims() -> None:
    figures = {"sync_cpu_seconds": 6.5, "unrelated_event_us": 46.0, "new_pod_us": 58.0, "own_write_us": 70.0}
    rows = [
        {"case": f"watch stream, {pods:,} pods", "operation_seconds": 0.0, "pods": pods, "rss_mib": 403.2, **figures}
        for pods in (1_000.0, 100_000.0)
    ]
    made = table({**HEADER, "rows": rows})
    assert "| 1,000 pods | 6.50 CPU s |  | 46 µs | 58 µs | 70 µs | 403 MiB |  |" in made
    assert "| 100,000 pods | 6.50 CPU s | 8 CPU s | 46 µs | 58 µs | 70 µs | 403 MiB | 500 MiB |" in made
