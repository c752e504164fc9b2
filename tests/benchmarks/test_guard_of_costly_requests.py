"""No request that a pod can send costs more instructions than the bound in `docs/security.md`."""

import pytest

from benchmarks.guard.costs import INSTRUCTIONS_MAX, costs, table
from tests.corpus.costly import COSTLY


@pytest.mark.tools
@pytest.mark.timeout(240)  # Callgrind takes half a minute, and longer with other load
def test_no_request_costs_more_instructions_than_the_bound() -> None:
    found = costs()

    assert {each.name for each in found} == COSTLY.keys()
    assert found[0].instructions <= INSTRUCTIONS_MAX, table(found[:8])
