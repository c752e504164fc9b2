"""The controller's benchmarks read a whole cluster and wait for an idle MIC; their results are in the documentation."""

import json
from collections.abc import Callable

import pytest

from benchmarks.controller.large import Quiet, until_quiet
from benchmarks.controller.reading_cost import EVENTS, feed
from benchmarks.controller.stream import Size
from benchmarks.controller.table import DOCUMENT, MAKER, TOKENS, table, tokens_table
from benchmarks.report.marks import standing
from tests.support.checkout import ROOT

SMALL = Size(pods=120, nodes=60, bindings=6)
RESULTS = ROOT / "benchmarks" / "results"


async def test_a_small_cluster_is_read_and_requires_no_change() -> None:
    fed = await feed(SMALL)  # which asserts what the view makes of it
    assert (fed.pods, fed.nodes, fed.bindings) == (120, 60, 6)
    assert SMALL.pods < EVENTS
    assert fed.sync_cpu_seconds > 0
    assert min(fed.unrelated_event_us, fed.new_pod_us, fed.own_write_us) > 0


def test_the_document_contains_the_tables_of_results_files_that_name_no_machine_or_directory() -> None:
    results = [json.loads(file.read_text()) for file in RESULTS.glob("controller-*.json")]
    assert standing(DOCUMENT, MAKER) in map(table, results)
    assert standing(DOCUMENT, TOKENS) in {*map(tokens_table, results)} - {""}
    for result in results:
        assert set(result["machine"]) == {"cpu", "cores", "kernel", "python", "uvloop", "memory_gib"}
        assert all("/" not in str(value) for value in (*result["machine"].values(), result["commit"], result["date"]))
        assert all(set(map(type, row.values())) <= {str, int, float} for row in result["rows"])


def test_a_mic_that_does_not_become_quiet_is_reported() -> None:
    shown = json.loads(next(RESULTS.glob("controller-*.json")).read_text())
    figures = {"quiet_s": 121.4, "quiet": False, "idle_share": 0.31, "cpu_s": 40.0, "peak_mib": 200.0, "gets": 520}
    rows = [{**row, **figures} if row["case"].startswith("start, ") else row for row in shown["rows"]]
    assert "| not quiet after 121 s (31.0% of a core), 40.0 CPU s" in table({**shown, "rows": rows})


async def quiet(share: Callable[[float], float], limit_seconds: float, reads: int = 0) -> Quiet:
    """Wait for a program with *share* of a core and *reads* per second, by the time in seconds."""
    now = cpu = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, cpu
        cpu += share(now) * seconds
        now += seconds

    return await until_quiet(
        lambda: cpu, lambda: int(now) * reads, limit_seconds=limit_seconds, clock=lambda: now, sleep=sleep
    )


async def test_the_wait_for_an_idle_mic_ends_at_its_first_idle_second_or_at_the_limit() -> None:
    idle = await quiet(lambda at: 0.8 if at < 7 else 0.01, 120.0)
    assert (idle.reached, idle.since) == (True, 7.0)
    assert idle.share == pytest.approx(0.01)
    busy = await quiet(lambda _at: 0.3, 20.0)
    assert (busy.reached, busy.since) == (False, 19.0)
    assert busy.share == pytest.approx(0.3)


async def test_periodic_reads_of_hosts_are_no_work() -> None:
    assert (await quiet(lambda _at: 0.075, 5.0, reads=17)).reached
    assert not (await quiet(lambda _at: 0.075, 5.0)).reached
