"""Closed and open loops of requests.

Closed loop: each connection sends the next request when it has the response; servers in alternating rounds. Open loop:
requests are sent at a fixed rate, independently of earlier responses.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks import paired
from benchmarks.load import requests
from benchmarks.load.benchmark_node import BenchmarkNode
from benchmarks.load.cases import CONTROL, RATE_CONNECTIONS, Load
from benchmarks.load.generator import Group, Measured
from benchmarks.load.servers import Server
from benchmarks.machine import Cores
from benchmarks.paired import Round, Sample
from benchmarks.results import BASE, OURS, REFERENCE, Case, Control, OpenLoop, Timely
from benchmarks.rounds import MeasuredServer, Outcome, Rounds

WARM_SECONDS: Final = 0.1
"""Until all connections are open and both cores run at full speed."""
OPEN_WARM_SECONDS: Final = 0.5
OK: Final = 200
AGAIN: Final = "nmi again"


@dataclass(frozen=True, slots=True)
class Pace:
    """How much of each."""

    rounds: int
    seconds: float
    """The duration of one measurement."""
    deadline: float
    """By the monotonic clock. After it there are no waits and no repetitions."""
    quick: bool


def measured(load: Load, benchmark_node: BenchmarkNode, cores: Cores, pace: Pace) -> Case:
    """Measure *load* on all servers of the node."""
    servers = benchmark_node.servers.items()
    outcome = _alternate(
        [_measured_server(name, load, benchmark_node, server, pace) for name, server in servers],
        cores,
        pace,
        benchmark_node,
    )
    return _case(load, benchmark_node, outcome.rounds, outcome.redone)


def side_by_side(loads: Sequence[tuple[Load, BenchmarkNode]], cores: Cores, pace: Pace) -> tuple[Case, ...]:
    """Measure NMI in each of *loads* and the first stage's nginx in the same rounds.

    So a change of the machine's speed affects all of them."""
    first_load, first = loads[0]
    measured_servers = [_measured_server(BASE, first_load, first, first.servers[BASE], pace)]
    measured_servers += [
        _measured_server(load.key, load, benchmark_node, benchmark_node.node, pace) for load, benchmark_node in loads
    ]
    outcome = _alternate(measured_servers, cores, pace, *(benchmark_node for _, benchmark_node in loads))
    return tuple(
        _case(load, benchmark_node, {BASE: outcome.rounds[BASE], OURS: outcome.rounds[load.key]}, outcome.redone)
        for load, benchmark_node in loads
    )


def control(benchmark_node: BenchmarkNode, cores: Cores, pace: Pace) -> Control:
    """Measure NMI as if it were two servers."""
    twice = [_measured_server(name, CONTROL, benchmark_node, benchmark_node.node, pace) for name in (OURS, AGAIN)]
    outcome = _alternate(twice, cores, pace, benchmark_node)
    return paired.control(CONTROL.title, outcome.rounds[OURS], outcome.rounds[AGAIN], outcome.redone)


def _measured_server(
    name: str, load: Load, benchmark_node: BenchmarkNode, server: Server, pace: Pace
) -> MeasuredServer:
    return MeasuredServer(name, server.pids, partial(_sample, load, benchmark_node, server, pace.seconds))


def _alternate(measured_servers: Sequence[MeasuredServer], cores: Cores, pace: Pace, *stages: BenchmarkNode) -> Outcome:
    rounds = Rounds(
        cores, helper_pids=(os.getpid(), *(pid for benchmark_node in stages for pid in benchmark_node.helper_pids))
    )
    return rounds.alternate(measured_servers, pace.rounds, pace.deadline, quick=pace.quick)


def _case(load: Load, benchmark_node: BenchmarkNode, rounds: Mapping[str, Sequence[Round]], redone: int) -> Case:
    return Case(
        key=load.key,
        title=load.title,
        description=load.description,
        mode="close" if load.close else "keep-alive",
        connections=load.connections,
        pods=benchmark_node.pods,
        rounds=len(rounds[OURS]),
        redone=redone,
        dirty=paired.dirty(rounds),
        servers=paired.served(rounds),
    )


def _sample(
    load: Load, benchmark_node: BenchmarkNode, server: Server, seconds: float, begin: Callable[[], None]
) -> Sample:
    group = Group(
        load.key,
        load.connections,
        benchmark_node.first_pod,
        benchmark_node.sending_pods,
        load.requests,
        close=load.close,
    )
    with benchmark_node.load(server, [group], seconds, warm_seconds=WARM_SECONDS) as running:
        running.counting()
        begin()
        run = running.wait()
    result = run.groups[load.key]
    p50, p99, p999 = percentiles(result)
    expected = load.status if server is benchmark_node.node else OK
    return Sample(
        requests=result.requests,
        rps=result.rps(),
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        statuses=result.statuses,
        errors=result.errors if server.name == REFERENCE else errors(result, expected),
        generator_seconds=run.cpu_seconds,
    )


def percentiles(result: Measured) -> tuple[float, float, float]:
    """Return p50, p99 and p99.9 in µs. They are 0 without responses; `errors` has the reasons."""
    if not result.requests:
        return 0.0, 0.0, 0.0
    return result.latency.quantile(0.5), result.latency.quantile(0.99), result.latency.quantile(0.999)


def errors(result: Measured, expected: int = OK) -> dict[str, int]:
    """Return the errors and how often each occurred."""
    others = {f"status {status}": count for status, count in result.statuses.items() if status != expected}
    return {**result.errors, **others}


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
        "all", RATE_CONNECTIONS, benchmark_node.first_pod, benchmark_node.sending_pods, (requests.plain(),), rate=rate
    )
    with benchmark_node.load(server, [group], seconds, warm_seconds=OPEN_WARM_SECONDS) as running:
        result = running.wait().groups["all"]
    p50, p99, p999 = percentiles(result)
    return Timely(
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        max_us=result.latency.max_us,
        errors=sum(errors(result).values()),
        late_us=result.behind.quantile(0.99) if result.behind.count else 0.0,
    )
