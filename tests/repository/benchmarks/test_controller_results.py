"""The controller's benchmarks read a whole cluster, and their results are those of the documentation."""

import json

from benchmarks.controller.cases import Row
from benchmarks.controller.reading_cost import EVENTS, feed
from benchmarks.controller.run import costs
from benchmarks.controller.stream import Size
from benchmarks.controller.table import DOCUMENT, MAKER, TOKENS, table, tokens_table
from benchmarks.report.marks import standing
from benchmarks.results import Controller
from tests.support.checkout import ROOT

SMALL = Size(pods=120, nodes=60, bindings=6)
RESULTS = ROOT / "benchmarks" / "results"
HEADER = {
    "commit": "0123456789",
    "date": "2026-01-01",
    "machine": {"cpu": "a processor", "cores": 2, "kernel": "6.1", "python": "3.11.7"},
    "load": {"before quick": 0.1, "after": 1.5},
}


async def test_a_small_cluster_is_read_and_requires_no_change() -> None:
    fed = await feed(SMALL)  # which asserts what the view makes of it
    assert (fed.pods, fed.nodes, fed.bindings) == (120, 60, 6)
    assert SMALL.pods < EVENTS
    assert fed.sync_cpu_seconds > 0
    assert fed.arm_calls == 30 + 2, "a GET for each VM and each scale set"
    assert min(fed.unrelated_event_us, fed.node_event_us, fed.new_pod_us, fed.own_write_us) > 0


def stream(pods: int, calls: int) -> Row:
    figures = {"pods": float(pods), "sync_cpu_seconds": 0.5, "unrelated_event_us": 40.0, "node_event_us": 16.0}
    return Row(f"watch stream, {pods:,} pods", 0.0, figures | {"rss_mib": 90.0, "arm_calls": float(calls)})


def test_each_size_has_its_costs_and_other_rows_have_none() -> None:
    start = Row("start, all assigned", 0.0, {"gets": 2.0, "cpu_s": 1.5})
    assert costs([Row("one pod", 5.0, {"median_s": 5.4}), stream(1_000, 52), stream(10_000, 520), start]) == (
        Controller(1_000, 0.5, 40.0, 90.0, 52),
        Controller(10_000, 0.5, 40.0, 90.0, 520),
    )


def test_the_document_contains_the_tables_of_results_files_that_name_no_machine_or_directory() -> None:
    results = [json.loads(file.read_text()) for file in RESULTS.glob("controller-*.json")]
    assert standing(DOCUMENT, MAKER) in map(table, results)
    assert standing(DOCUMENT, TOKENS) in {*map(tokens_table, results)} - {""}
    for found in results:
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
