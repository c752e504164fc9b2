"""Results of the controller's benchmarks for each size of cluster."""

from benchmarks.controller.cases import Row
from benchmarks.controller.run import costs
from benchmarks.results import Controller


def stream(pods: int, calls: int) -> Row:
    figures = {"pods": float(pods), "sync_cpu_seconds": 0.5, "unrelated_event_us": 40.0, "node_event_us": 16.0}
    return Row(f"watch stream, {pods:,} pods", 0.0, figures | {"rss_mib": 90.0, "arm_calls": float(calls)})


def test_each_size_has_its_costs_and_other_rows_have_none() -> None:
    start = Row("start, all assigned", 0.0, {"gets": 2.0, "cpu_s": 1.5})
    assert costs([Row("one pod", 5.0, {"median_s": 5.4}), stream(1_000, 52), stream(10_000, 520), start]) == (
        Controller(1_000, 0.5, 40.0, 90.0, 52),
        Controller(10_000, 0.5, 40.0, 90.0, 520),
    )
