"""Latency of NMI in an open loop of ready responses during disturbances in NMI or next to it."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Event, Thread
from typing import Final

from benchmarks.load import cases, requests
from benchmarks.load.addresses import addresses
from benchmarks.load.benchmark_node import GENERATOR_CORE, BenchmarkNode
from benchmarks.load.cases import Disturbance
from benchmarks.load.emulator_commands import Counts
from benchmarks.load.generator import Group, Load, Measured, Request
from benchmarks.load.loops import errors, percentiles
from benchmarks.load.servers import get
from benchmarks.results import Background

WARM_SECONDS: Final = 0.5
HITS: Final = "hits"
CONCURRENT: Final = "concurrent"
CONNECTIONS: Final = 64
STALL_US: Final = 5_000.0
RELIST_SECONDS: Final = 1.5
"""The interval between two lists. A watch must exist for a second, or NMI increases its backoff."""
SCRAPE_SECONDS: Final = 1.0
EVENTS_PER_SECOND: Final = 1_000
SLOW_RATE: Final = 8.0
FORWARDED_RATE: Final = 4.0
"""Forwarded requests per second. IMDS allows 5 for instance metadata."""
IMDS_DELAY_MS: Final = 50.0
ID: Final = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Concurrent:
    """A disturbance: other clients, and actions on the node during the load."""

    clients: tuple[Group, ...] = ()
    noise: tuple[Group, ...] = ()
    """Clients with a lower priority on the generator's core: they load NMI and not the generator."""
    again: Callable[[], object] | None = None
    """The action that runs every *seconds*."""
    seconds: float = 1.0
    first: Callable[[], object] | None = None
    last: Callable[[], object] | None = None


def measured(what: Disturbance, benchmark_node: BenchmarkNode, seconds: float) -> tuple[Background, ...]:
    """Return a row of cached requests with the other clients' errors, and a row of these clients if `own` names it."""
    concurrent, before = _concurrent(what, benchmark_node, seconds), benchmark_node.node_servers.counts()
    hits = Group(
        HITS,
        CONNECTIONS,
        benchmark_node.first_pod,
        cases.BACKGROUND_PODS,
        (requests.plain(),),
        rate=cases.BACKGROUND_RATE,
    )
    if concurrent.first:
        concurrent.first()
    try:
        with (
            _noise(benchmark_node, concurrent.noise, seconds) as noise,
            benchmark_node.load(
                benchmark_node.node, [hits, *concurrent.clients], seconds, warm_seconds=WARM_SECONDS
            ) as running,
            repeated(concurrent.again, concurrent.seconds),
        ):
            run = running.wait()
            others = noise.wait().groups if noise else {}
    finally:
        if concurrent.last:
            concurrent.last()
    requests_sent = sum(group.requests for group in others.values())
    text = f"{what.text}{_description(what, before, benchmark_node.node_servers.counts(), requests_sent)}"
    row = _row(what.key, what.title, text, run.groups[HITS], errors_of(others.values()))
    if not what.own:
        return (row,)
    return row, _row(f"{what.key}-own", what.own, f"as in the row above, {what.text}", run.groups[CONCURRENT])


def _description(what: Disturbance, before: Counts, after: Counts, noise: int) -> str:
    """Return the measured amount of the disturbance."""
    happened = {
        cases.RELIST.key: f"{after.lists - before.lists} lists",
        cases.EVENTS.key: f"{after.events - before.events:,} events",
        cases.NOISY.key: f"{noise:,} requests of its",
    }
    return f" ({happened[what.key]} in all)" if what.key in happened else ""


def _row(key: str, title: str, text: str, result: Measured, more_errors: int = 0) -> Background:
    p50, p99, p999 = percentiles(result)
    return Background(
        key=key,
        title=title,
        meanwhile=text,
        requests=result.requests,
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        max_us=result.latency.max_us,
        stalls=result.latency.above(STALL_US),
        errors=errors_of([result]) + more_errors,
    )


def errors_of(groups: Iterable[Measured]) -> int:
    return sum(sum(errors(group).values()) for group in groups)


def _concurrent(what: Disturbance, benchmark_node: BenchmarkNode, seconds: float) -> Concurrent:
    (noisy_pod,) = addresses(cases.BACKGROUND_PODS + 1, benchmark_node.first_pod)[-1:]
    slowly = partial(Group, CONCURRENT, 16, benchmark_node.first_pod, cases.BACKGROUND_PODS, rate=SLOW_RATE)
    concurrent: Mapping[str, Callable[[], Concurrent]] = {
        cases.NOTHING.key: Concurrent,
        cases.RELIST.key: lambda: Concurrent(again=benchmark_node.node_servers.relist, seconds=RELIST_SECONDS),
        cases.EVENTS.key: lambda: Concurrent(
            first=partial(benchmark_node.node_servers.churn, EVENTS_PER_SECOND, seconds + 2 * WARM_SECONDS),
            last=partial(benchmark_node.node_servers.churn, 0, 0),
        ),
        cases.SCRAPES.key: lambda: Concurrent(again=partial(_scrape, benchmark_node), seconds=SCRAPE_SECONDS),
        cases.NOISY.key: lambda: Concurrent(
            noise=(
                Group("loud", 200, noisy_pod, 1, (requests.plain(),)),
                Group("closing", 50, noisy_pod, 1, (requests.plain(),), close=True),
            )
        ),
        cases.MISSES.key: lambda: Concurrent(
            clients=(slowly(requests=(uncached(),)),),
            first=partial(benchmark_node.node_servers.set_imds, delay_ms=IMDS_DELAY_MS),
            last=benchmark_node.node_servers.set_imds,
        ),
        cases.RENEWALS.key: lambda: Concurrent(
            clients=(slowly(requests=(force_refresh(),)),),
            first=partial(benchmark_node.node_servers.set_imds, delay_ms=IMDS_DELAY_MS),
            last=benchmark_node.node_servers.set_imds,
        ),
        cases.PASSED_ON.key: lambda: Concurrent(
            clients=(slowly(requests=(requests.uncached_metadata(),), rate=FORWARDED_RATE),)
        ),
    }
    return concurrent[what.key]()


def _scrape(benchmark_node: BenchmarkNode) -> None:
    response = benchmark_node.node.side.call(
        lambda: get("127.0.0.1", benchmark_node.node.metrics_port, "/metrics", headers={})
    )
    assert response.status == 200, f"/metrics answered {response.status}"


def uncached() -> Request:
    """Return a request for another token each time, none of which was requested before."""
    text = requests.plain().text.replace(b"resource=https%3A%2F%2F", b"resource=https%3A%2F%2F" + ID.encode() + b".")
    return Request(text, (text.index(ID.encode()),))


def force_refresh() -> Request:
    """Return a request that has NMI fetch a cached token again, as SDKs send it after a revocation."""
    request = requests.plain()
    return replace(request, text=request.text.replace(b"&resource=", b"&bypass_cache=true&resource="))


def _give_way() -> None:
    """Run the calling thread, and its child processes, on the generator's core at the lowest priority."""
    os.sched_setaffinity(0, {GENERATOR_CORE})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


@contextmanager
def _noise(benchmark_node: BenchmarkNode, groups: Sequence[Group], seconds: float) -> Iterator[Load | None]:
    """Run *groups* for the duration of the measured load."""
    if not groups:
        yield None
        return
    with ThreadPoolExecutor(1, initializer=_give_way) as starter:
        load = starter.submit(
            benchmark_node.load, benchmark_node.node, groups, seconds, warm_seconds=WARM_SECONDS
        ).result()
    with load:
        yield load


@contextmanager
def repeated(call: Callable[[], object] | None, seconds: float) -> Iterator[None]:
    """Call *call* every *seconds* inside the block, first after *seconds*. Its exception is raised at the end."""
    if call is None:
        yield
        return
    over = Event()
    failures: list[Exception] = []

    def repeat() -> None:
        _give_way()
        due = time.monotonic() + seconds
        while not over.wait(max(0.0, due - time.monotonic())):
            due += seconds
            try:
                call()
            except Exception as failure:  # noqa: BLE001  raised where it can be seen
                failures.append(failure)
                return

    thread = Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]
