"""The functions of the micro benchmarks return their expected results, and times are per call."""

from collections.abc import Callable

import pytest

from benchmarks.micro.measure import Case, cases, measured
from benchmarks.results import Micro, Quartiles


def taking(
    nanoseconds: int, calls: list[str], name: str = "native", results: int = 2
) -> Callable[[int], tuple[int, int]]:
    """Return a loop of two calls that reports a given duration per call."""

    def loop(times: int) -> tuple[int, int]:
        calls.append(name)
        return nanoseconds * 2 * times, results * times

    return loop


def test_every_timed_function_returns_its_expected_result() -> None:
    rows = [(case, measured(case, rounds=3, slice_ns=1000)) for case in cases()]

    assert {row.function.partition(" ")[0].rstrip(",") for _, row in rows} == {
        *("scan_head", "read_query", "Index.of", "PodRecord.asked", "ReadyAnswer.written", "Series.record"),
    }
    for case, row in rows:
        assert 0 < row.native.low <= row.native.median <= row.native.high
        compared = {"oracle": row.oracle, "httptools": row.httptools}
        assert {name for name, found in compared.items() if found} == case.loops.keys() - {"native"}


def test_a_time_is_per_call_for_any_loop_length() -> None:
    calls: list[str] = []
    loops = {"native": taking(100, calls), "oracle": taking(7000, calls, "oracle")}

    row = measured(Case("f", "two texts", 2, 2, loops), rounds=4, slice_ns=10_000)

    assert row == Micro("f", "two texts", Quartiles(100, 100, 100), Quartiles(7000, 7000, 7000), None)
    assert calls[-8:] == ["native", "oracle"] * 4


@pytest.mark.parametrize(("native", "oracle", "complaint"), [(1, 2, "1 results, not 2"), (2, 0, "oracle: 0 results")])
def test_a_function_with_other_results_is_not_timed(native: int, oracle: int, complaint: str) -> None:
    loops = {"native": taking(100, [], results=native), "oracle": taking(100, [], results=oracle)}
    with pytest.raises(AssertionError, match=complaint):
        measured(Case("f", "two texts", 2, 2, loops))
