"""The load generator's histogram of times."""

import json
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import generator
from benchmarks.load.generator import Latency

COMPILE = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
HARNESS = """
#include "times.h"
int main(void) {
    static struct times times;
    for (long long ns; scanf("%lld", &ns) == 1;)
        count_time(&times, ns);
    print_times(&times);
}
"""
Counted = Callable[[list[int]], Latency]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """The buckets that the C code uses for durations."""
    folder = tmp_path_factory.mktemp("times")
    (folder / "harness.c").write_text(HARNESS)
    subprocess.run([*COMPILE, "-I", generator.HERE, "-o", folder / "harness", folder / "harness.c"], check=True)

    def count(times: list[int]) -> Latency:
        done = subprocess.run([folder / "harness"], input="\n".join(map(str, times)).encode(), stdout=-1, check=True)
        return generator._latency(json.loads(done.stdout))

    return count


times_ns = st.integers(0, 60_000_000_000) | st.integers(0, 1000) | st.integers(0, 35).map(lambda bits: 1 << bits)


@given(times=st.lists(times_ns, min_size=1, max_size=60), share=st.floats(0, 1))
def test_quantiles_are_those_of_the_times(counted: Counted, times: list[int], share: float) -> None:
    latency = counted(times)
    assert latency.count == len(times)
    assert latency.max_us == max(times) / 1e3
    rank = max(-int(-(share * len(times)) // 1), 1)
    exact = sorted(times)[rank - 1] / 1e3
    assert latency.quantile(share) == pytest.approx(exact, rel=0.004, abs=0.001)
    assert latency.quantile(1) <= latency.max_us


@given(times=st.lists(times_ns, max_size=60), limit=times_ns)
def test_the_count_above_a_bound_excludes_close_values(counted: Counted, times: list[int], limit: int) -> None:
    found = counted(times).above(limit / 1e3)
    assert sum(ns > limit * 1.004 + 1 for ns in times) <= found <= sum(ns > limit * 0.996 - 1 for ns in times)


def test_buckets_are_distinct_and_complete(counted: Counted) -> None:
    edges = sorted({(1 << bits) + step for bits in range(36) for step in (-1, 0, 1)} - {-1})
    buckets = [counted([ns]).buckets[0][0] for ns in edges]
    assert buckets == sorted(buckets)
    assert [counted([ns]).buckets[0][0] for ns in (0, 255, 256, 257, 258)] == [0, 255, 256, 256, 257]
    beyond = counted([-5, 10**12])
    assert (beyond.buckets[0], beyond.count, beyond.max_us) == ((0, 1), 2, 1e9)
