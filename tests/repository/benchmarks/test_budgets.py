"""The budgets are those of the design, and each is compared with its own figure of a run."""

from dataclasses import replace

from benchmarks.budgets import budgets
from benchmarks.results import Start
from tests.repository.benchmarks.sample_results import FULL

DESIGN = [
    # Name, direction, limit, and the figure of the sample
    ("keep-alive c=32: requests a second", "at least", 1.2, 1.31),
    ("connection per request: CPU", "at most", 1.05, 1.03),
    ("keep-alive c=1: p50", "at most", 1.05, 1.04),
    ("keep-alive c=32: p99", "at most", 1.2, 1.19),
    ("10,000 pods instead of 1: requests a second", "at least", 0.95, 1.2 / 1.25),
    ("re-list of 250 pods: p99.9", "at most", 5.0, 4.9),
    ("memory under load, 250 pods", "at most", 48.0, 47.0),
    ("CPU without requests, 250 pods", "at most", 0.2, 0.15),
    ("memory under load, 10,000 pods", "at most", 120.0, 119.0),
    ("no header: CPU", "at most", 8.0, 6.0),
    ("no header: CPU, of a cached token", "at most", 2.0, 1.2),
    ("no resource: CPU", "at most", 8.0, 7.0),
    ("no resource: CPU, of a cached token", "at most", 2.0, 1.4),
    ("unknown path: CPU", "at most", 8.0, 8.0),
    ("unknown path: CPU, of a cached token", "at most", 2.0, 1.6),
    ("instance metadata c=32: CPU", "at most", 8.0, 9.0),
    ("instance metadata c=32", "at least", 50_000.0, 60_000.0),
    ("start to Active, 250 pods", "at most", 0.8, 0.79),
    ("start to Active, 250 pods: CPU", "at most", 0.5, 0.49),
    ("start to Active, kubeconfig", "at most", 0.9, 0.89),
    ("start to Active, limit of 1 CPU", "at most", 1.5, 1.4),
]


STARTS = (Start(None, 0.79, 0.49), Start(1.0, 1.4, 0.48), Start(None, 0.89, 0.6, kubeconfig=True))


def test_each_budget_of_the_design_has_its_own_figure() -> None:
    measured = budgets(replace(FULL, starts=STARTS))
    assert [(budget.what, budget.direction, budget.limit, budget.got) for budget in measured] == DESIGN


def test_an_unmeasured_budget_is_not_met() -> None:
    nothing = budgets(replace(FULL, cases=(), background=(), memory=()))
    assert [budget.got for budget in nothing] == [None] * 11
    assert not any(budget.met for budget in nothing)
