"""The budgets are those of the design. Whether one is met depends only on its own figure."""

from dataclasses import dataclass, replace

import pytest

from benchmarks.budgets import budgets
from benchmarks.results import Background, Case, Controller, Memory, Quartiles, Ratios, Start
from tests.repository.benchmarks.sample_results import case


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


@dataclass
class Figures:
    """A run within all limits."""

    cases: tuple[Case, ...] = (
        measured("keep-alive-1", p50=1.04),
        measured("keep-alive-32", rps=1.21, p99=1.19),
        measured("close-32", cpu=1.04),
        measured("pods-1", rps=1.25),
        measured("pods-10000", rps=1.2),
    )
    background: tuple[Background, ...] = (Background("relist", "re-list", "", 1, 1, 1, 4_900, 1, 0, 0),)
    memory: tuple[Memory, ...] = (Memory(250, 40, 47, idle_percent=0.2), Memory(10_000, 80, 119))
    controller: tuple[Controller, ...] = (
        Controller(1_000, 9, 9_000, 999, None),
        Controller(10_000, 2.9, 900, 299, None),
        Controller(100_000, 7.9, 900, 499, None),
    )
    starts: tuple[Start, ...] = (
        Start(None, 0.79, 0.49),
        Start(1.0, 1.4, 0.49),
        Start(None, 0.89, 0.6, kubeconfig=True),
    )
    held_bytes: float | None = 7_900

    def missed(self) -> list[str]:
        found = budgets(
            self.cases, self.background, self.memory, self.controller, self.starts, held_bytes=self.held_bytes
        )
        return [each.what for each in found if not each.met]

    def with_case(self, *changed: Case) -> "Figures":
        cases = {each.key: each for each in (*self.cases, *changed)}
        return replace(self, cases=tuple(cases.values()))

    def with_one(self, field: str, number: int, **changed: float) -> "Figures":
        rows = list(getattr(self, field))
        rows[number] = replace(rows[number], **changed)
        return replace(self, **{field: tuple(rows)})  # type: ignore[arg-type]


GOOD = Figures()


def test_a_run_within_all_limits_misses_no_budget() -> None:
    cheap = (costing("keep-alive-32", 5.0), costing("no-resource-32", 7.9), costing("instance-32", 7.9))
    assert GOOD.missed() == GOOD.with_case(*cheap).missed() == []


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (GOOD.with_case(measured("keep-alive-1", p50=1.06)), "keep-alive c=1: p50"),
        (GOOD.with_case(measured("keep-alive-32", rps=1.19, p99=1.0)), "keep-alive c=32: requests a second"),
        (GOOD.with_case(measured("keep-alive-32", rps=1.3, p99=1.21)), "keep-alive c=32: p99"),
        (GOOD.with_case(measured("close-32", cpu=1.06)), "connection per request: CPU"),
        (GOOD.with_case(measured("pods-10000", rps=1.18)), "10,000 pods instead of 1: requests a second"),
        (GOOD.with_case(costing("keep-alive-32", 5.0), costing("no-header-32", 8.1)), "no header: CPU"),
        (
            GOOD.with_case(costing("keep-alive-32", 3.0), costing("no-path-32", 6.1)),
            "unknown path: CPU, of a cached token",
        ),
        (
            GOOD.with_case(costing("keep-alive-32", 5.0), costing("instance-32", 8.1)),
            "instance metadata c=32: CPU",
        ),
        (
            GOOD.with_case(costing("keep-alive-32", 5.0), costing("instance-32", 7.9, rps=49_999)),
            "instance metadata c=32",
        ),
        (GOOD.with_one("background", 0, p999_us=5_001), "re-list of 250 pods: p99.9"),
        (GOOD.with_one("memory", 0, load_mib=48.1), "memory under load, 250 pods"),
        (GOOD.with_one("memory", 0, idle_percent=0.21), "CPU without requests, 250 pods"),
        (GOOD.with_one("memory", 1, load_mib=120.1), "memory under load, 10,000 pods"),
        (GOOD.with_one("starts", 0, seconds=0.81), "start to Active, 250 pods"),
        (GOOD.with_one("starts", 0, cpu_seconds=0.51), "start to Active, 250 pods: CPU"),
        (GOOD.with_one("starts", 1, seconds=1.6), "start to Active, limit of 1 CPU"),
        (GOOD.with_one("starts", 2, seconds=0.91), "start to Active, kubeconfig"),
        (replace(GOOD, held_bytes=8_001), "held request"),
        (GOOD.with_one("controller", 1, cold_cpu_s=3.1), "MIC reads 10,000 pods"),
        (GOOD.with_one("controller", 1, event_us=1_001), "MIC reads an event among 10,000 pods"),
        (GOOD.with_one("controller", 1, memory_mib=301), "MIC's memory with 10,000 pods"),
        (GOOD.with_one("controller", 2, cold_cpu_s=8.1), "MIC reads 100,000 pods"),
        (GOOD.with_one("controller", 2, memory_mib=501), "MIC's memory with 100,000 pods"),
    ],
)
def test_a_figure_beyond_its_limit_misses_its_budget_only(found: Figures, what: str) -> None:
    assert found.missed() == [what]


def test_an_unmeasured_budget_is_not_met() -> None:
    nothing = Figures((), (), (), (), (), None)
    assert len(nothing.missed()) == len(budgets((), (), (), (), ())) == 15
