"""The cost of a request equals the committed baseline, and no request costs more than the bound in docs/security.md."""

import pytest

from benchmarks.guard import baseline
from benchmarks.guard.costs import INSTRUCTIONS_MAX, costs, table
from benchmarks.guard.counting import counted
from benchmarks.guard.environment import current_environment
from tests.support.corpus.costly import COSTLY


@pytest.mark.tools
@pytest.mark.timeout(240)  # Callgrind takes twenty seconds, and a minute with other load
def test_a_request_costs_what_the_baseline_states() -> None:
    environment = current_environment()
    base = baseline.nearest(baseline.read(), environment)

    found = counted()

    lines = baseline.deviations(base, environment, found)
    assert not lines, baseline.message(lines, base, environment)


@pytest.mark.tools
@pytest.mark.timeout(240)  # Callgrind takes half a minute, and longer with other load
def test_no_request_costs_more_instructions_than_the_bound() -> None:
    found = costs()

    assert {each.name for each in found} == COSTLY.keys()
    assert found[0].instructions <= INSTRUCTIONS_MAX, table(found[:8])
