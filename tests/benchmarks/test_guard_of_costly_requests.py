"""No request that a pod can send costs more instructions than the bound in `docs/security.md`."""

import pytest

from benchmarks.guard.costs import INSTRUCTIONS_MAX, Cost, costs, table
from tests.corpus.costly import COSTLY


@pytest.mark.tools
@pytest.mark.timeout(240)  # Callgrind takes half a minute, and longer with other load
def test_no_request_costs_more_instructions_than_the_bound() -> None:
    found = costs()

    assert {each.name for each in found} == COSTLY.keys()
    assert found[0].instructions <= INSTRUCTIONS_MAX, table(found[:8])


def test_a_cost_is_shown_with_its_part_for_each_byte() -> None:
    assert table([Cost("a", 2, 1500.0)]).splitlines()[2].split() == ["|", "a", "|", "2", "|", "1,500", "|", "750", "|"]
