"""Statistics of rounds, and the reasons against a run."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.paired import Round, Sample, control, dirty, judged, objections, quartiles, ratios, served
from benchmarks.results import Quartiles, Results
from tests.benchmarks.sample_results import FULL, QUICK
from tests.benchmarks.sample_results import control as invented_control

Change = Callable[[Results], Results]
USUAL = {"rps": 1_000.0, "cpu": 8.0, "p50": 200.0, "p99": 400.0}


def round_of(rps: float, cpu: float = 8.0, *, p50: float = 200.0, p99: float = 400.0, disturbed: bool = False) -> Round:
    sample = Sample(1_000, rps, p50, p99, 2 * p99, {200: 1_000}, {}, 0.5)
    return Round(sample, cpu, cpu * 0.25, cpu * 0.75, disturbed)


def test_quartiles_use_the_inclusive_method() -> None:
    assert quartiles([5, 1, 4, 2, 3]) == Quartiles(2, 3, 4)
    assert quartiles([7]) == Quartiles(7, 7, 7)


def test_rounds_are_compared_pairwise_and_not_by_their_medians() -> None:
    ours, theirs = [round_of(10), round_of(40), round_of(90)], [round_of(40), round_of(20), round_of(30)]
    assert ratios(ours, theirs).rps.median == 2, "a change of the machine's speed between rounds has no effect"
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
    found = control("c", [round_of(rps, cpu, p50=p50, p99=p99)], [usual], redone=3)
    assert found.agrees is agrees
    assert (found.rounds, found.redone, found.dirty) == (1, 3, 0)


def test_a_server_is_compared_with_nginx_and_nginx_with_nothing() -> None:
    found = served({"nmi": [round_of(130, 6), round_of(120, 6)], "nginx": [round_of(100), round_of(100)]})
    assert found["nginx"].against is None
    against = found["nmi"].against
    assert against is not None
    assert against.rps.median == pytest.approx(1.25)
    assert against.cpu.median == pytest.approx(0.75)
    assert served({"nmi": [round_of(1)]})["nmi"].against is None
    disturbed = round_of(1, disturbed=True)
    assert dirty({"nmi": [round_of(1), disturbed], "nginx": [disturbed] * 2}) == 3


def test_a_round_without_a_value_ends_the_run_unless_it_is_the_references() -> None:
    rounds = {"nginx": [round_of(100)], "nmi": [round_of(130)], "go": [round_of(1, cpu=-0.5)]}
    found = served(rounds)
    assert found["go"].against is None
    assert found["nmi"].against is not None
    with pytest.raises(ValueError, match="cannot be compared"):
        served({**rounds, "nmi": [round_of(130, cpu=-0.5)]})


def test_answers_and_errors_of_all_rounds_are_summed() -> None:
    odd = round_of(100)
    odd = replace(odd, sample=replace(odd.sample, statuses={200: 990, 503: 10}, errors={"reset": 2, "short": 0}))
    found = served({"nmi": [round_of(100), odd]})["nmi"]
    assert found.statuses == {200: 1_990, 503: 10}
    assert found.errors == {"reset": 2}, "what never happened is not named"


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
    assert judged("it", got, direction, 1.2).met is met


def test_a_clean_run_a_quick_one_of_fewer_rounds_and_one_that_misses_a_budget_are_accepted() -> None:
    missed = judged("it", 2.0, "at most", 1.0)
    for run in (FULL, QUICK, first_case(rounds=14)(QUICK), replace(FULL, budgets=(missed,))):
        assert objections(run) == ()


def first_case(**changes: Any) -> Change:
    return lambda found: replace(found, cases=(replace(found.cases[0], **changes), *found.cases[1:]))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda found: replace(found, changed=True), "files differed from the commit"),
        (lambda found: replace(found, control=None), "there was no control"),
        (lambda found: replace(found, control=invented_control(0.03)), "the control is out of 2%"),
        (
            lambda found: replace(found, control=replace(invented_control(), dirty=2)),
            "something disturbed 2 of the control's measurements",
        ),
        (first_case(rounds=14), "keep-alive c=1: 14 rounds instead of 15"),
        (first_case(dirty=1), "keep-alive c=1: 1 of 60 measurements disturbed"),
        (
            first_case(servers={"nmi": replace(FULL.cases[0].servers["nmi"], errors={"reset": 1})}),
            "keep-alive c=1: errors of nmi",
        ),
        (
            lambda found: replace(
                found,
                open_loop=(replace(row := found.open_loop[0], servers={"nmi": replace(row.servers["nmi"], errors=1)}),),
            ),
            "1,000 requests/s: errors of nmi",
        ),
        (
            lambda found: replace(found, background=(replace(found.background[1], errors=7),)),
            "full re-list: 7 errors",
        ),
    ],
)
def test_the_reasons_against_a_run_are_reported(spoil: Change, why: str) -> None:
    assert objections(spoil(FULL)) == (why,)


@pytest.mark.parametrize(("name", "accepted"), [("nmi", False), ("nginx", False), ("go", True)])
def test_errors_make_a_run_invalid_unless_they_are_the_references(name: str, accepted: bool) -> None:
    first, *others = FULL.cases
    failing = replace(first.servers["nmi"], errors={"reset": 1})
    run = replace(FULL, cases=(replace(first, servers={**first.servers, name: failing}), *others))
    assert (objections(run) == ()) == accepted
