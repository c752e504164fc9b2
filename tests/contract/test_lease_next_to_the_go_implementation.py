"""This project's and the Go implementation's leader election on the emulator, in virtual time."""

from tests.contract.go_lock_tests import (  # noqa: F401 - collected here
    pair,
    test_a_dead_go_implementation_is_replaced_after_its_lock_has_expired,
    test_a_go_implementation_that_creates_its_lock_ends_mics_leadership_immediately,
    test_after_the_lock_object_is_deleted_mic_leads_without_it,
    test_an_empty_lock_object_created_by_hand_is_acquired_so_that_a_later_go_implementation_waits,
    test_of_several_mics_and_the_go_implementation_one_leads,
    test_the_go_implementation_replaces_a_dead_mic_only_after_mics_lease_has_expired,
    test_the_go_implementation_waits_while_mic_runs_and_leads_immediately_after_it_has_stopped,
    test_while_the_go_implementation_leads_mic_waits_and_leads_after_the_release,
    test_without_the_go_implementations_lock_object_none_is_created,
)
from tests.contract.leases_in_memory import api, client, clock, mics, namespace  # noqa: F401 - used by name

IN_VIRTUAL_TIME = True
