"""The cost of a request in instructions, allocations and system calls equals the committed baseline."""

import pytest

from benchmarks.guard import baseline
from benchmarks.guard.counting import counted
from benchmarks.guard.environment import current_environment


@pytest.mark.tools
@pytest.mark.timeout(240)  # Callgrind takes twenty seconds, and a minute with other load
def test_a_request_costs_what_the_baseline_states() -> None:
    environment = current_environment()
    base = baseline.nearest(baseline.read(), environment)

    found = counted()

    lines = baseline.deviations(base, environment, found)
    assert not lines, baseline.message(lines, base, environment)
