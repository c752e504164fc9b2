"""A sample results file without a measurement, for tests of reports."""

from dataclasses import replace
from datetime import UTC, datetime

from benchmarks.paired import AGREEMENT, judged
from benchmarks.results import (
    Background,
    Case,
    Control,
    Controller,
    Machine,
    Memory,
    Micro,
    OpenLoop,
    Quartiles,
    Ratios,
    Results,
    Served,
    Timely,
)

MACHINE = Machine(
    cpu="A Processor 9000",
    cores=2,
    kernel="6.1.0",
    memory_gib=24,
    virtual=True,
    governor=None,
    turbo=None,
    load=0.1,
    versions={"Python": "3.11.7", "uvloop": "0.23.0", "nginx": "1.22.1"},
)
SPEEDS = {"nmi": 1.31, "nginx": 1.0, "plain": 0.55, "aiohttp": 0.09}


def around(middle: float) -> Quartiles:
    return Quartiles(middle * 0.97, middle, middle * 1.02)


def server(speed: float) -> Served:
    busy, wait = 8.5 / speed, 270 / speed
    slower = around(1 / speed)
    return Served(
        rps=around(117_000 * speed),
        cpu_us=around(busy),
        user_us=around(busy * 0.3),
        system_us=around(busy * 0.7),
        p50_us=around(wait),
        p99_us=around(wait * 1.6),
        p999_us=around(wait * 2.9),
        statuses={200: 1_700_000},
        errors={},
        against=None if speed == 1 else Ratios(around(speed), slower, slower, slower),
    )


def case(title: str) -> Case:
    return Case(
        key=title.replace(" ", "-"),
        title=title,
        description="GET of a cached token, 217 bytes of request, 1.7 kB of answer.",
        mode="keep-alive",
        connections=32,
        pods=250,
        series=(),
        rounds=15,
        redone=2,
        dirty=0,
        servers={name: server(speed) for name, speed in SPEEDS.items()},
    )


def background(title: str, stalls: int) -> Background:
    return Background(title, title, f"{title}, ten times.", 400_000, 95, 300, 900, 4_100, stalls, 0)


def control(off: float = 0.004) -> Control:
    each = Quartiles(0.98 + off, 1 + off, 1.03 + off)
    return Control("keep-alive c=32", 15, 1, 0, Ratios(each, each, each, each), agrees=abs(off) <= AGREEMENT)


FULL = Results(
    date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    commit="0123456789",
    changed=False,
    full=True,
    seconds=840.0,
    stolen_seconds=0.4,
    machine=MACHINE,
    control=control(),
    cases=(case("keep-alive c=1"), case("keep-alive c=32")),
    open_loop=(OpenLoop(1_000, 32, {"nmi": Timely(90, 260, 700, 2_300, 0, 30.0)}),),
    background=(background("nothing else", 0), background("full re-list", 3)),
    memory=(Memory(250, 48.2, 55.4),),
    micro=(Micro("query", "SDKs' requests", around(56), around(3_791), None),),
    controller=(Controller(1_000, 0.08, 40.2, 51.9, 52), Controller(100_000, 11.7, 58.0, 899.3, None)),
    budgets=(
        judged("keep-alive c=32: requests a second", 1.31, "at least", 1.2, aim=1.3),
        judged("p99.9 during a re-list", None, "at most", 5, unit="ms"),
    ),
    left_out=("Pods are loopback addresses: no network card, no nat rule.",),
)
QUICK = replace(FULL, full=False)
