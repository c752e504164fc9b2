"""Statistics of measurement rounds. Pure.

On a shared machine one round varies by a quarter, but the ratio of two servers in the same round varies far less. So
figures are medians and quartiles, and comparisons are ratios within each round.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.results import BASE, REFERENCE, Budget, Control, Quartiles, Ratios, Results, Served

AGREEMENT: Final = 0.02
"""The permitted distance of the median of a control's ratios from one."""
LEAST_ROUNDS: Final = 15
"""The minimum of a full run, with which a control agrees."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The generator's result of one measurement."""

    requests: int
    rps: float
    p50_us: float
    p99_us: float
    p999_us: float
    statuses: Mapping[int, int]
    errors: Mapping[str, int]
    generator_seconds: float
    """CPU time of the generator."""


@dataclass(frozen=True, slots=True)
class Round:
    """One server in one round: its results, and its CPU time per request."""

    sample: Sample
    cpu_us: float
    user_us: float
    system_us: float
    dirty: bool
    """Whether another process used the cores."""


def quartiles(values: Iterable[float]) -> Quartiles:
    """Return median and quartiles of at least one value, in any order."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return Quartiles(ordered[0], ordered[0], ordered[0])
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Quartiles(low, median, high)


def ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> Ratios:
    """Return the ratios per round.

    Raises ValueError for different numbers of rounds, or a figure that is not above zero.
    """
    return Ratios(
        rps=_ratio(ours, theirs, lambda result: result.sample.rps),
        cpu=_ratio(ours, theirs, lambda result: result.cpu_us),
        p50=_ratio(ours, theirs, lambda result: result.sample.p50_us),
        p99=_ratio(ours, theirs, lambda result: result.sample.p99_us),
    )


def _against(name: str, rounds: Sequence[Round], base: Sequence[Round]) -> Ratios | None:
    """Return the comparison with *base*; None if it is impossible for REFERENCE, which does not end the run."""
    try:
        return ratios(rounds, base)
    except ValueError:
        if name == REFERENCE:
            return None
        raise


def _ratio(ours: Sequence[Round], theirs: Sequence[Round], figure: Callable[[Round], float]) -> Quartiles:
    pairs = [(figure(mine), figure(their)) for mine, their in zip(ours, theirs, strict=True)]
    if any(min(pair) <= 0 for pair in pairs):
        raise ValueError("a round without a figure above zero cannot be compared: look for the server's errors")
    return quartiles(mine / their for mine, their in pairs)


def served(rounds: Mapping[str, Sequence[Round]]) -> dict[str, Served]:
    """Return each server's figures, and its ratios to nginx if nginx was measured."""
    base = rounds.get(BASE)
    return {
        name: _served(server_rounds, None if base is None or name == BASE else _against(name, server_rounds, base))
        for name, server_rounds in rounds.items()
    }


def _served(rounds: Sequence[Round], against: Ratios | None) -> Served:
    statuses: Counter[int] = Counter()
    errors: Counter[str] = Counter()
    for result in rounds:
        statuses.update(result.sample.statuses)
        errors.update(result.sample.errors)
    return Served(
        rps=quartiles(result.sample.rps for result in rounds),
        cpu_us=quartiles(result.cpu_us for result in rounds),
        user_us=quartiles(result.user_us for result in rounds),
        system_us=quartiles(result.system_us for result in rounds),
        p50_us=quartiles(result.sample.p50_us for result in rounds),
        p99_us=quartiles(result.sample.p99_us for result in rounds),
        p999_us=quartiles(result.sample.p999_us for result in rounds),
        statuses=dict(sorted(statuses.items())),
        errors={what: times for what, times in sorted(errors.items()) if times},
        against=against,
    )


def dirty(rounds: Mapping[str, Sequence[Round]]) -> int:
    """Return the number of disturbed measurements."""
    return sum(result.dirty for server_rounds in rounds.values() for result in server_rounds)


def control(case: str, first: Sequence[Round], second: Sequence[Round], redone: int) -> Control:
    """Return the result of one server that was measured as if it were two."""
    compared = ratios(first, second)
    disturbed = dirty({"one": first, "other": second})
    return Control(case, len(first), redone, disturbed, compared, agrees=agree(compared))


def agree(compared: Ratios) -> bool:
    """Return whether the median of each ratio is within AGREEMENT of one."""
    medians = (compared.rps.median, compared.cpu.median, compared.p50.median, compared.p99.median)
    return all(abs(median - 1) <= AGREEMENT for median in medians)


def reached(got: float, bound: float, direction: Literal["at most", "at least"]) -> bool:
    return got <= bound if direction == "at most" else got >= bound


def budget(
    what: str,
    got: float | None,
    direction: Literal["at most", "at least"],
    limit: float,
    *,
    aim: float | None = None,
    unit: str = "x",
) -> Budget:
    """Return a budget with its measured figure. A budget without a measurement is not met."""
    return Budget(what, unit, direction, limit, aim, got, met=got is not None and reached(got, limit, direction))


def objections(results: Results) -> tuple[str, ...]:
    """Return the reasons against the use of the figures, if there are any. A missed budget is no reason."""
    reasons = []
    if results.changed:
        reasons.append("files differed from the commit")
    if results.control is None:
        reasons.append("there was no control")
    else:
        if not results.control.agrees:
            reasons.append(f"the control is out of {AGREEMENT:.0%}")
        if results.control.dirty:
            reasons.append(f"something disturbed {results.control.dirty} of the control's measurements")
    for case in results.cases:
        if results.full and case.rounds < LEAST_ROUNDS:
            reasons.append(f"{case.title}: {case.rounds} rounds instead of {LEAST_ROUNDS}")
        if case.dirty:
            reasons.append(f"{case.title}: {case.dirty} of {case.rounds * len(case.servers)} measurements disturbed")
        reasons += [
            f"{case.title}: errors of {name}"
            for name, figures in case.servers.items()
            if figures.errors and name != REFERENCE
        ]
    for row in results.open_loop:
        reasons += [
            f"{row.rate:,} requests/s: errors of {name}" for name, figures in row.servers.items() if figures.errors
        ]
    reasons += [f"{row.title}: {row.errors} errors" for row in results.background if row.errors]
    return tuple(reasons)
