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


def ratios(speed: float) -> Ratios:
    return Ratios(around(speed), around(1 / speed), around(1 / speed), around(1.1 / speed))


def server(speed: float, connections: int, *, base: bool) -> Served:
    rps = 45_000 * speed if connections == 1 else 117_000 * speed
    busy = 8.5 / speed
    wait = connections / rps * 1e6
    return Served(
        rps=around(rps),
        cpu_us=around(busy),
        user_us=around(busy * 0.3),
        system_us=around(busy * 0.7),
        p50_us=around(wait),
        p99_us=around(wait * 1.6),
        p999_us=around(wait * 2.9),
        statuses={200: round(rps * 15)},
        errors={},
        against=None if base else ratios(speed),
    )


def case(title: str, connections: int = 32, pods: int = 250, *, varied: bool = False, close: bool = False) -> Case:
    return Case(
        key=title.replace(" ", "-"),
        title=title,
        description="GET of a cached token, 217 bytes of request, 1.7 kB of answer.",
        mode="close" if close else "keep-alive",
        connections=connections,
        pods=pods,
        series=("connections",) if varied else (),
        rounds=15,
        redone=2,
        dirty=0,
        servers={name: server(speed, connections, base=name == "nginx") for name, speed in SPEEDS.items()},
    )


def timely(scale: float) -> Timely:
    return Timely(90 * scale, 260 * scale, 700 * scale, 2_300 * scale, 0, 30.0)


def background(title: str, scale: float, stalls: int) -> Background:
    meanwhile = f"{title}, ten times."
    return Background(title, title, meanwhile, 400_000, 95, 300 * scale, 900 * scale, 4_100 * scale, stalls, 0)


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
    cases=(
        case("keep-alive c=1", 1, varied=True),
        case("keep-alive c=32", 32, varied=True),
        case("keep-alive c=256", 256, varied=True),
        case("connection per request c=32", close=True),
        case("SDKs' requests c=32"),
        case("1 pod c=32", pods=1),
        case("10,000 pods c=32", pods=10_000),
    ),
    open_loop=(
        OpenLoop(1_000, 32, {"nmi": timely(1.0), "nginx": timely(1.2)}),
        OpenLoop(50_000, 32, {"nmi": timely(1.9), "nginx": timely(2.6)}),
    ),
    background=(background("nothing else", 1, 0), background("full re-list", 1.7, 3)),
    memory=(Memory(1, 46.1, 47.9), Memory(250, 48.2, 55.4), Memory(10_000, 88.3, 97.0)),
    micro=(
        Micro("scan", "SDKs' requests", around(126), around(5_400), around(724)),
        Micro("query", "SDKs' requests", around(56), around(3_791), None),
    ),
    controller=(
        Controller(1_000, 0.08, 40.2, 51.9, 52),
        Controller(10_000, 0.98, 49.4, 128.3, 520),
        Controller(100_000, 11.7, 58.0, 899.3, None),
    ),
    budgets=(
        judged("keep-alive c=32: requests a second", 1.31, "at least", 1.2, aim=1.3),
        judged("connection per request: CPU", 1.04, "at most", 1.05, aim=1.0),
        judged("keep-alive c=32: p99", 1.31, "at most", 1.2),
        judged("memory under load, 250 pods", 55.4, "at most", 64, aim=57, unit="MiB"),
        judged("p99.9 during a re-list", None, "at most", 5, unit="ms"),
    ),
    left_out=("Pods are loopback addresses: no network card, no nat rule.",),
)
QUICK = replace(FULL, full=False)
