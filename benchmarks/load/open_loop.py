"""Open loops: requests are sent at a fixed rate, independently of earlier responses."""

from collections.abc import Sequence
from typing import Final

from benchmarks.load import requests
from benchmarks.load.benchmark_node import BenchmarkNode
from benchmarks.load.cases import RATE_CONNECTIONS
from benchmarks.load.closed_loop import errors, percentiles
from benchmarks.load.generator import Group
from benchmarks.load.servers import Server
from benchmarks.results import BASE, OURS, OpenLoop, Timely

WARM_SECONDS: Final = 0.5


def at_rates(rates: Sequence[int], benchmark_node: BenchmarkNode, seconds: float) -> tuple[OpenLoop, ...]:
    """Measure NMI and nginx at each of *rates* (requests per second) for *seconds* each."""
    return tuple(
        OpenLoop(
            rate,
            RATE_CONNECTIONS,
            {name: _timely(rate, benchmark_node, benchmark_node.servers[name], seconds) for name in (BASE, OURS)},
        )
        for rate in rates
    )


def _timely(rate: int, benchmark_node: BenchmarkNode, server: Server, seconds: float) -> Timely:
    group = Group(
        "all", RATE_CONNECTIONS, benchmark_node.first_pod, benchmark_node.askers, (requests.plain(),), rate=rate
    )
    with benchmark_node.load(server, [group], seconds, warm_seconds=WARM_SECONDS) as running:
        found = running.wait().groups["all"]
    p50, p99, p999 = percentiles(found)
    return Timely(
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        max_us=found.latency.max_us,
        errors=sum(errors(found).values()),
        late_us=found.behind.quantile(0.99) if found.behind.count else 0.0,
    )
