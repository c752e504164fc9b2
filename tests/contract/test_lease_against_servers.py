"""Leadership on the emulator, in virtual time."""

from tests.contract.lease_tests import (  # noqa: F401 - collected here
    candidate,
    test_a_dead_leader_is_replaced_after_its_lease_has_expired,
    test_a_lease_touched_by_another_writer_is_renewed,
    test_a_release_lets_another_candidate_lead_before_the_duration_ends,
    test_a_stolen_lease_ends_the_leadership,
    test_of_several_candidates_one_leads,
    test_the_first_candidate_leads_and_records_its_identity,
    test_the_leader_renews_while_it_runs_and_no_other_candidate_leads,
)
from tests.contract.leases_in_memory import api, client, clock, namespace  # noqa: F401 - used by name

IN_VIRTUAL_TIME = True
