"""A results file without a measurement, for tests of reports and budgets. Each figure of a budget has another value."""

from dataclasses import replace
from datetime import UTC, datetime

from benchmarks.results import (
    Background,
    Case,
    Control,
    Machine,
    Memory,
    OpenLoop,
    Quartiles,
    Ratios,
    Results,
    Served,
    Timely,
)


def around(middle: float) -> Quartiles:
    return Quartiles(middle * 0.97, middle, middle * 1.02)


ONE = Ratios(around(1.0), around(1.0), around(1.0), around(1.0))


def served(*, cpu_us: float = 8.5, rps: float = 100_000, against: Ratios | None = ONE) -> Served:
    return Served(
        rps=around(rps),
        cpu_us=around(cpu_us),
        user_us=around(cpu_us * 0.3),
        system_us=around(cpu_us * 0.7),
        p50_us=around(270),
        p99_us=around(430),
        p999_us=around(780),
        statuses={200: 1_700_000},
        errors={},
        against=against,
    )


def case(key: str, ours: Served) -> Case:
    """A case of 15 clean rounds."""
    servers = {"nmi": ours, "nginx": served(against=None)}
    return Case(key, f"case {key}", "GET of a cached token.", "keep-alive", 32, 250, 15, 0, 0, servers)


FULL = Results(
    date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    commit="0123456789",
    changed=False,
    full=True,
    seconds=840.0,
    stolen_seconds=0.4,
    machine=Machine("A Processor 9000", 2, "6.1.0", 24, True, None, None, 0.1, {"Python": "3.11.7", "nginx": "1.22.1"}),
    control=Control("keep-alive c=32", 15, 1, 0, ONE, agrees=True),
    cases=(
        case("keep-alive-1", served(against=replace(ONE, p50=around(1.04)))),
        case("keep-alive-32", served(cpu_us=5.0, against=replace(ONE, rps=around(1.31), p99=around(1.19)))),
        case("close-32", served(against=replace(ONE, cpu=around(1.03)))),
        case("pods-1", served(against=replace(ONE, rps=around(1.25)))),
        case("pods-10000", served(against=replace(ONE, rps=around(1.2)))),
        case("no-header-32", served(cpu_us=6.0)),
        case("no-resource-32", served(cpu_us=7.0)),
        case("no-path-32", served(cpu_us=8.0)),
        case("instance-32", served(cpu_us=9.0, rps=60_000)),
    ),
    open_loop=(OpenLoop(1_000, 32, {"nmi": Timely(90, 260, 700, 2_300, 0, 30.0)}),),
    background=(
        Background("relist", "full re-list", "A full re-list, ten times.", 400_000, 95, 300, 4_900, 5_100, 3, 0),
    ),
    memory=(Memory(250, 40, 47.0, idle_percent=0.15), Memory(10_000, 80, 119.0)),
    budgets=(),
    left_out=("Pods are loopback addresses: no network card, no nat rule.",),
)
QUICK = replace(FULL, full=False)
BEST = FULL.cases[0]
"""A case without errors and disturbances."""
