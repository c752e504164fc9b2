"""Statistics of rounds: properties that are true for all measurements."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paired import Round, Sample, budget, control, dirty, objections, quartiles, ratios, served
from benchmarks.results import Quartiles, Results, Served
from tests.repository.benchmarks.sample_results import BEST, FULL, QUICK

Change = Callable[[Results], Results]
USUAL = {"rps": 1_000.0, "cpu": 8.0, "p50": 200.0, "p99": 400.0}
FIGURES = st.floats(min_value=0.1, max_value=1e6, allow_nan=False)


def round_of(rps: float, cpu: float = 8.0, *, p50: float = 200.0, p99: float = 400.0, disturbed: bool = False) -> Round:
    sample = Sample(1_000, rps, p50, p99, 2 * p99, {200: 1_000}, {}, 0.5)
    return Round(sample, cpu, cpu * 0.25, cpu * 0.75, disturbed)


ROUNDS = st.lists(
    st.builds(lambda rps, cpu, p50, p99: round_of(rps, cpu, p50=p50, p99=p99), FIGURES, FIGURES, FIGURES, FIGURES),
    min_size=1,
    max_size=30,
)


@given(st.lists(FIGURES, min_size=1, max_size=30))
def test_quartiles_are_ordered_and_within_the_measured_values(values: list[float]) -> None:
    result = quartiles(values)
    # Interpolation may round by a last digit.
    assert min(values) * (1 - 1e-12) <= result.low <= result.median <= result.high <= max(values) * (1 + 1e-12)
    assert result.median == statistics.median(values)
    assert quartiles([5, 1, 4, 2, 3]) == Quartiles(2, 3, 4), "by the inclusive method"


@given(ROUNDS, st.floats(min_value=0.01, max_value=100))
def test_a_server_that_is_faster_by_a_factor_has_that_ratio_at_any_speed_of_the_machine(
    rounds: list[Round], factor: float
) -> None:
    faster = [replace(round_, sample=replace(round_.sample, rps=round_.sample.rps * factor)) for round_ in rounds]
    result = ratios(faster, rounds)
    assert (result.rps.low, result.rps.median, result.rps.high) == pytest.approx((factor,) * 3)
    assert (result.cpu, result.p50, result.p99) == (Quartiles(1, 1, 1),) * 3


def test_rounds_are_compared_pairwise_and_not_by_their_medians() -> None:
    ours, theirs = [round_of(10), round_of(40), round_of(90)], [round_of(40), round_of(20), round_of(30)]
    assert ratios(ours, theirs).rps.median == 2
    assert statistics.median([10, 40, 90]) / statistics.median([40, 20, 30]) != 2


def test_servers_with_different_numbers_of_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratios([round_of(1)], [round_of(1), round_of(1)])


@pytest.mark.parametrize("broken", [round_of(0), round_of(1, 0), round_of(1, p50=0), round_of(1, p99=0)])
def test_a_round_without_a_value_is_rejected(broken: Round) -> None:
    with pytest.raises(ValueError, match="look for the server's errors"):
        ratios([round_of(1)], [broken])
    with pytest.raises(ValueError, match="look for the server's errors"):
        ratios([broken], [round_of(1)])


@pytest.mark.parametrize("figure", USUAL)
@pytest.mark.parametrize(("off", "agrees"), [(1.019, True), (0.981, True), (1.021, False), (0.979, False)])
def test_a_control_agrees_if_no_ratio_differs_from_one_by_more_than_two_percent(
    figure: str, off: float, agrees: bool
) -> None:
    rps, cpu, p50, p99 = (value * (off if name == figure else 1) for name, value in USUAL.items())
    usual = round_of(USUAL["rps"], USUAL["cpu"], p50=USUAL["p50"], p99=USUAL["p99"])
    result = control("c", [round_of(rps, cpu, p50=p50, p99=p99)], [usual], redone=3)
    assert result.agrees is agrees
    assert (result.rounds, result.redone, result.dirty) == (1, 3, 0)


def test_a_server_is_compared_with_nginx_and_nginx_with_nothing() -> None:
    result = served({"nmi": [round_of(130, 6), round_of(120, 6)], "nginx": [round_of(100), round_of(100)]})
    assert result["nginx"].against is None
    against = result["nmi"].against
    assert against is not None
    assert against.rps.median == pytest.approx(1.25)
    assert against.cpu.median == pytest.approx(0.75)
    assert served({"nmi": [round_of(1)]})["nmi"].against is None


def test_a_round_without_a_value_ends_the_run_unless_it_is_the_references() -> None:
    rounds = {"nginx": [round_of(100)], "nmi": [round_of(130)], "go": [round_of(1, cpu=-0.5)]}
    result = served(rounds)
    assert result["go"].against is None
    assert result["nmi"].against is not None
    with pytest.raises(ValueError, match="cannot be compared"):
        served({**rounds, "nmi": [round_of(130, cpu=-0.5)]})


def test_responses_and_errors_of_all_rounds_are_summed() -> None:
    odd = round_of(100)
    odd = replace(odd, sample=replace(odd.sample, statuses={200: 990, 503: 10}, errors={"reset": 2, "short": 0}))
    result = served({"nmi": [round_of(100), odd]})["nmi"]
    assert result.statuses == {200: 1_990, 503: 10}
    assert result.errors == {"reset": 2}, "what never happened is not named"


def test_disturbed_measurements_of_all_servers_are_counted() -> None:
    assert dirty({"nmi": [round_of(1), round_of(1, disturbed=True)], "nginx": [round_of(1, disturbed=True)] * 2}) == 3


@pytest.mark.parametrize(
    ("got", "direction", "met"),
    [
        (1.2, "at least", True),
        (1.19, "at least", False),
        (1.2, "at most", True),
        (1.21, "at most", False),
        (None, "at most", False),
    ],
)
def test_a_budget_is_met_at_its_limit_and_never_without_a_value(got: float | None, direction: Any, met: bool) -> None:
    assert budget("it", got, direction, 1.2).met is met


def first_case(**changes: Any) -> Change:
    return lambda run: replace(run, cases=(replace(BEST, **changes), *run.cases[1:]))


def failing(name: str) -> dict[str, Served]:
    return {**BEST.servers, name: replace(BEST.servers["nmi"], errors={"reset": 1})}


def first_row(part: str, **changes: Any) -> Change:
    return lambda run: replace(run, **dict[str, Any]({part: (replace(getattr(run, part)[0], **changes),)}))


OPEN, IDLE = FULL.open_loop[0], FULL.background[0]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: replace(run, changed=True), "files differed from the commit"),
        (lambda run: replace(run, control=None), "there was no control"),
        (lambda run: replace(run, control=replace(run.control, agrees=False)), "the control is out of 2%"),
        (
            lambda run: replace(run, control=replace(run.control, dirty=2)),
            "something disturbed 2 of the control's measurements",
        ),
        (first_case(rounds=14), f"{BEST.title}: 14 rounds instead of 15"),
        (first_case(dirty=1), f"{BEST.title}: 1 of {BEST.rounds * len(BEST.servers)} measurements disturbed"),
        (first_case(servers=failing("nmi")), f"{BEST.title}: errors of nmi"),
        (first_case(servers=failing("nginx")), f"{BEST.title}: errors of nginx"),
        (
            first_row("open_loop", servers={"nmi": replace(OPEN.servers["nmi"], errors=1)}),
            f"{OPEN.rate:,} requests/s: errors of nmi",
        ),
        (first_row("background", errors=7), f"{IDLE.title}: 7 errors"),
    ],
)
def test_the_reasons_against_a_run_are_reported(spoil: Change, reason: str) -> None:
    assert objections(spoil(FULL)) == (reason,)


@pytest.mark.parametrize(
    ("change", "run"),
    [
        (first_case(servers=failing("go")), FULL),
        (first_case(rounds=14), QUICK),
        (lambda run: replace(run, budgets=(budget("it", 2.0, "at most", 1.0),)), FULL),
    ],
    ids=["errors of the Go implementation", "fewer rounds in a quick run", "a missed budget"],
)
def test_what_does_not_invalidate_a_run(change: Change, run: Results) -> None:
    assert objections(change(run)) == ()
