"""Leadership on the real API server, by the clock of this machine.

Of the tests next to the Go implementation only those that depend on the server's answers run here: a lock that is
released, created or updated by several candidates. The others depend on durations, which the emulator's tests have too.
"""

import pytest

from tests.contract.leases.test_leadership import (  # noqa: F401 - collected here
    test_a_dead_leader_is_replaced_after_its_lease_has_expired,
    test_a_lease_touched_by_another_writer_is_renewed,
    test_a_release_lets_another_candidate_lead_before_the_duration_ends,
    test_a_stolen_lease_ends_the_leadership,
    test_of_several_candidates_one_leads,
    test_the_first_candidate_leads_and_records_its_identity,
    test_the_leader_renews_while_it_runs_and_no_other_candidate_leads,
)
from tests.contract.leases.test_lease_next_to_the_go_implementation import (  # noqa: F401 - collected here
    test_a_go_implementation_that_creates_its_lock_ends_mics_leadership_immediately,
    test_of_several_mics_and_the_go_implementation_one_leads,
    test_while_the_go_implementation_leads_mic_waits_and_leads_after_the_release,
)
from tests.contract.servers import RealServer
from tests.testplane.up import Plane


@pytest.fixture
def server(plane: Plane) -> RealServer:
    return RealServer(plane)
