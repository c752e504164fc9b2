"""The budgets are those of the design. Whether one is met depends only on its own figure."""

from dataclasses import replace

import pytest

from benchmarks.budgets import budgets
from benchmarks.results import Background, Case, Controller, Memory, Quartiles, Ratios, Start
from tests.benchmarks.sample_results import case

BACKGROUND = (Background("relist", "re-list", "", 1, 1, 1, 4_900, 1, 0, 0),)
STARTS = (Start(None, 0.79, 0.49), Start(1.0, 1.4, 0.49), Start(None, 0.89, 0.6, kubeconfig=True))
HELD_BYTES = 7_900
MEMORY = (Memory(250, 40, 47), Memory(10_000, 80, 119))
MIC = (Controller(1_000, 9, 9_000, 999, None), Controller(10_000, 2.9, 900, 299, None))


def at(value: float) -> Quartiles:
    return Quartiles(value, value, value)


def measured(key: str, *, rps: float = 1.0, cpu: float = 1.0, p50: float = 1.0, p99: float = 1.0) -> Case:
    made = case(key)
    ours = replace(made.servers["nmi"], against=Ratios(at(rps), at(cpu), at(p50), at(p99)))
    return replace(made, key=key, servers={**made.servers, "nmi": ours})


def costing(key: str, cpu_us: float, rps: float = 100_000) -> Case:
    """A case in which a request of NMI costs *cpu_us*, within the limits of `keep-alive-32`."""
    made = measured(key, rps=1.21, p99=1.19)
    return replace(made, servers={**made.servers, "nmi": replace(made.servers["nmi"], cpu_us=at(cpu_us), rps=at(rps))})


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
    *,
    held_bytes: float | None = HELD_BYTES,
) -> list[str]:
    found = budgets(cases, background, memory, controller, starts, held_bytes=held_bytes)
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
    first, limited, kubeconfig = STARTS
    assert missed(starts=(replace(first, seconds=0.81), kubeconfig)) == ["start to Active, 250 pods"]
    assert missed(starts=(replace(first, cpu_seconds=0.51), kubeconfig)) == ["start to Active, 250 pods: CPU"]
    slow = replace(limited, seconds=1.6)
    assert missed(starts=(first, slow, kubeconfig)) == ["start to Active, limit of 1 CPU"]
    slow = replace(kubeconfig, seconds=0.91)
    assert missed(starts=(first, limited, slow)) == ["start to Active, kubeconfig"]
    assert missed(starts=()) == [
        "start to Active, 250 pods",
        "start to Active, 250 pods: CPU",
        "start to Active, kubeconfig",
    ]


def test_a_held_request_over_8_kb_is_named() -> None:
    assert missed(held_bytes=8_001) == ["held request"]


def test_refusals_and_instance_metadata_have_budgets_if_they_were_measured() -> None:
    def with_token(cpu_us: float, *more: Case) -> tuple[Case, ...]:
        return (CASES[0], costing("keep-alive-32", cpu_us), *CASES[2:], *more)

    assert missed(with_token(5.0, costing("no-resource-32", 7.9), costing("instance-32", 7.9))) == []
    assert missed(with_token(5.0, costing("no-header-32", 8.1))) == ["no header: CPU"]
    assert missed(with_token(3.0, costing("no-path-32", 6.1))) == ["unknown path: CPU, of a cached token"]
    assert missed(with_token(5.0, costing("instance-32", 8.1))) == ["instance metadata c=32: CPU"]
    assert missed(with_token(5.0, costing("instance-32", 7.9, rps=49_999))) == ["instance metadata c=32"]


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
    assert len(missed((), (), (), (), (), held_bytes=None)) == len(budgets((), (), (), (), ())) == 15
