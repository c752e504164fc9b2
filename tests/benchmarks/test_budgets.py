"""Budgets are those of the design, and each is met or missed by its own figure alone."""

from dataclasses import replace

import pytest

from benchmarks.budgets import budgets
from benchmarks.results import Background, Case, Controller, Memory, Quartiles, Ratios, Start
from tests.benchmarks.sample_results import case

BACKGROUND = (Background("relist", "re-list", "", 1, 1, 1, 4_900, 1, 0, 0),)
STARTS = (Start(None, 0.79, 0.49), Start(1.0, 1.4, 0.49))
MEMORY = (Memory(250, 40, 47), Memory(10_000, 80, 119))
MIC = (Controller(1_000, 9, 9_000, 999, None), Controller(10_000, 2.9, 900, 299, None))


def at(value: float) -> Quartiles:
    return Quartiles(value, value, value)


def measured(key: str, *, rps: float = 1.0, cpu: float = 1.0, p50: float = 1.0, p99: float = 1.0) -> Case:
    made = case(key)
    ours = replace(made.servers["nmi"], against=Ratios(at(rps), at(cpu), at(p50), at(p99)))
    return replace(made, key=key, servers={**made.servers, "nmi": ours})


CASES = (
    measured("keep-alive-1", p50=1.04),
    measured("keep-alive-32", rps=1.21, p99=1.19),
    measured("close-32", cpu=1.04),
    measured("pods-1", rps=1.25),
    measured("pods-10000", rps=1.2),
)


def missed(
    cases: tuple[Case, ...] = CASES,
    background: tuple[Background, ...] = BACKGROUND,
    memory: tuple[Memory, ...] = MEMORY,
    controller: tuple[Controller, ...] = MIC,
    starts: tuple[Start, ...] = STARTS,
) -> list[str]:
    found = budgets(cases, background, memory, controller, starts)
    return [each.what for each in found if not each.met]


def test_a_run_within_all_limits_misses_no_budget() -> None:
    assert missed() == []


@pytest.mark.parametrize(
    ("worse", "what"),
    [
        (measured("keep-alive-1", p50=1.06), "keep-alive c=1: p50"),
        (measured("keep-alive-32", rps=1.19, p99=1.0), "keep-alive c=32: requests a second"),
        (measured("keep-alive-32", rps=1.3, p99=1.21), "keep-alive c=32: p99"),
        (measured("close-32", cpu=1.06), "connection per request: CPU"),
        (measured("pods-10000", rps=1.18), "10,000 pods instead of 1: requests a second"),
    ],
)
def test_each_case_outside_its_limit_is_named(worse: Case, what: str) -> None:
    assert missed(tuple(worse if each.key == worse.key else each for each in CASES)) == [what]


def test_a_stall_too_much_memory_and_a_slow_start_are_named() -> None:
    assert missed(background=(replace(BACKGROUND[0], p999_us=5_001),)) == ["re-list of 250 pods: p99.9"]
    assert missed(memory=(replace(MEMORY[0], load_mib=48.1), MEMORY[1])) == ["memory under load, 250 pods"]
    assert missed(memory=(replace(MEMORY[0], idle_percent=0.2), MEMORY[1])) == []
    assert missed(memory=(replace(MEMORY[0], idle_percent=0.21), MEMORY[1])) == ["CPU without requests, 250 pods"]
    assert missed(memory=(MEMORY[0], replace(MEMORY[1], load_mib=120.1))) == ["memory under load, 10,000 pods"]
    assert missed(starts=(replace(STARTS[0], seconds=0.81),)) == ["start to Active, 250 pods"]
    assert missed(starts=(replace(STARTS[0], cpu_seconds=0.51),)) == ["start to Active, 250 pods: CPU"]
    limited = replace(STARTS[1], seconds=1.6)
    assert missed(starts=(STARTS[0], limited)) == ["start to Active, limit of 1 CPU"]
    assert missed(starts=()) == ["start to Active, 250 pods", "start to Active, 250 pods: CPU"]


def test_a_controller_with_higher_costs_is_named() -> None:
    slow = Controller(10_000, 3.1, 1_001, 301, None)
    assert missed(controller=(slow,)) == [
        "MIC reads 10,000 pods",
        "MIC reads an event among 10,000 pods",
        "MIC's memory with 10,000 pods",
    ]


def test_the_largest_cluster_has_budgets_if_it_was_measured() -> None:
    assert missed(controller=(*MIC, Controller(100_000, 7.9, 900, 499, None))) == []
    assert missed(controller=(*MIC, Controller(100_000, 8.1, 900, 501, None))) == [
        "MIC reads 100,000 pods",
        "MIC's memory with 100,000 pods",
    ]


def test_an_unmeasured_budget_is_not_met() -> None:
    assert len(missed((), (), (), (), ())) == len(budgets((), (), (), (), ())) == 13
