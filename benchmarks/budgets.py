"""The budgets of the data plane, compared with the results of a run. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from benchmarks.paired import budget
from benchmarks.results import OURS, Budget, Case, Ratios, Results, Served

FULL_NODE: Final = 250
MANY: Final = 10_000

REFUSALS: Final[Mapping[str, str]] = MappingProxyType(
    {"no-header-32": "no header", "no-resource-32": "no resource", "no-path-32": "unknown path"}
)
"""Names of refusals by the key of their case."""
INSTANCE: Final = "instance-32"


def budgets(results: Results) -> tuple[Budget, ...]:
    """Return the budgets of the project's design, compared with *results*.

    A budget without a measurement is not met. The start with a limit of CPU time is optional, because it needs root. A
    quick run omits the cases of `REFUSALS` and INSTANCE, and their budgets.
    """
    cases, starts = results.cases, results.starts
    full, one = _ratios(cases, "keep-alive-32"), _ratios(cases, "keep-alive-1")
    closing = _ratios(cases, "close-32")
    few, many = _ratios(cases, "pods-1"), _ratios(cases, "pods-10000")
    flat = many.rps.median / few.rps.median if few and many else None
    stall = next(
        (disturbance.p999_us / 1000 for disturbance in results.background if disturbance.key == "relist"), None
    )
    weight = {memory.pods: memory.load_mib for memory in results.memory}
    start = next((start for start in starts if start.cores is None and not start.kubeconfig), None)
    with_kubeconfig = next((start for start in starts if start.kubeconfig), None)
    token, instance = _ours(cases, "keep-alive-32"), _ours(cases, INSTANCE)
    limited = [start for start in starts if start.cores is not None]
    return (
        budget("keep-alive c=32: requests a second", full.rps.median if full else None, "at least", 1.2, aim=1.3),
        budget("connection per request: CPU", closing.cpu.median if closing else None, "at most", 1.05, aim=1.0),
        budget("keep-alive c=1: p50", one.p50.median if one else None, "at most", 1.05),
        budget("keep-alive c=32: p99", full.p99.median if full else None, "at most", 1.2),
        budget("10,000 pods instead of 1: requests a second", flat, "at least", 0.95),
        budget("re-list of 250 pods: p99.9", stall, "at most", 5.0, unit="ms"),
        budget("memory under load, 250 pods", weight.get(FULL_NODE), "at most", 48, aim=42, unit="MiB"),
        *(
            budget("CPU without requests, 250 pods", memory.idle_percent, "at most", 0.2, unit="%")
            for memory in results.memory
            if memory.pods == FULL_NODE and memory.idle_percent is not None
        ),
        budget("memory under load, 10,000 pods", weight.get(MANY), "at most", 120, unit="MiB"),
        *_refusals(cases, token),
        *(
            (
                budget("instance metadata c=32: CPU", instance.cpu_us.median, "at most", 8, unit="µs"),
                budget("instance metadata c=32", instance.rps.median, "at least", 50_000, unit="requests/s"),
            )
            if instance
            else ()
        ),
        budget("start to Active, 250 pods", start.seconds if start else None, "at most", 0.8, aim=0.25, unit="s"),
        budget(
            "start to Active, 250 pods: CPU",
            start.cpu_seconds if start else None,
            "at most",
            0.5,
            aim=0.15,
            unit="CPU s",
        ),
        budget(
            "start to Active, kubeconfig",
            with_kubeconfig.seconds if with_kubeconfig else None,
            "at most",
            0.9,
            aim=0.5,
            unit="s",
        ),
        *(
            budget(f"start to Active, limit of {start.cores:g} CPU", start.seconds, "at most", 1.5, unit="s")
            for start in limited
        ),
    )


def _refusals(cases: Sequence[Case], token: Served | None) -> Iterator[Budget]:
    """Yield the budgets of each measured case of `REFUSALS`, also in relation to a cached *token*."""
    for key, name in REFUSALS.items():
        if refusal := _ours(cases, key):
            yield budget(f"{name}: CPU", refusal.cpu_us.median, "at most", 8, unit="µs")
            if token:
                ratio = refusal.cpu_us.median / token.cpu_us.median
                yield budget(f"{name}: CPU, of a cached token", ratio, "at most", 2)


def _ours(cases: Sequence[Case], key: str) -> Served | None:
    """Return NMI's figures in that case."""
    return next((case.servers[OURS] for case in cases if case.key == key), None)


def _ratios(cases: Sequence[Case], key: str) -> Ratios | None:
    """Return NMI's figures and nginx's in that case."""
    return next((case.servers[OURS].against for case in cases if case.key == key), None)
