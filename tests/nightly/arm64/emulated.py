"""Plugin of pytest for a run under qemu-user: the tests that need what the emulator does not have must fail.

pytest lists them with the reason. A test that passes in spite of this list fails the run, so that the list stays true;
those of TCP_INFO also depend on the speed of the machine.
The same tests fail on another architecture if getsockopt() has the limits of the emulator there.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import pytest

TCP_INFO: Final = "qemu-user returns 4 bytes of TCP_INFO: the lane cannot read the length of the kernel's queue"
SO_MEMINFO: Final = (
    "qemu-user returns 4 bytes of SO_MEMINFO: the lane does not know the kernel's memory of a connection"
)
SO_ORIGINAL_DST: Final = "qemu-user does not support SO_ORIGINAL_DST: no connection counts as redirected"
MYPY: Final = "mypy is not installed for arm64; the stubs are compared on each build machine"
NOT_EMULATED: Final[Mapping[str, Sequence[str]]] = {
    TCP_INFO: (
        "test_lane_handover.py::test_a_disconnected_peer_does_not_affect_the_answers_of_others",
        "test_lane_limits.py::test_one_loop_iteration_serves_a_limited_number_of_requests_of_a_connection",
        "test_lane_limits.py::test_continuous_requests_of_one_peer_delay_another_peers_request_by_one_request_only",
        "test_lane_limits.py::test_connections_of_one_peer_are_served_in_rotation",
        "test_lane_limits.py::test_one_loop_iteration_accepts_a_limited_number_of_connections",
        "test_lane_limits.py::test_frequent_connects_delay_the_first_request_of_others_by_few_requests",
        "test_lane_back_pressure.py::test_above_the_memory_limit_only_the_largest_peer_loses_connections",
        "test_lane_survives_handlers.py::test_an_interrupt_leaves_no_connection_waiting",
        "test_leaks.py::test_thousands_of_connections_leave_no_objects_behind",
        "test_node_listener.py::test_a_flood_of_direct_connections_is_closed_at_a_bounded_rate_and_others_are_accepted",
    ),
    SO_MEMINFO: (
        "test_lane_back_pressure.py::test_a_peer_that_never_reads_is_cut_off_at_the_write_deadline",
        (
            "test_lane_back_pressure.py::test_a_slot_is_occupied_until_the_peer_has_read_its_answers"
            "[uvloop-by the last request]"
        ),
        ("test_lane_back_pressure.py::test_a_slot_is_occupied_until_the_peer_has_read_its_answers[uvloop-by its peer]"),
        "test_lane_back_pressure.py::test_a_throttled_peer_gets_all_answers_once_it_reads",
    ),
    MYPY: ("test_stubs_and_imports.py::test_the_stubs_match_the_compiled_modules",),
    SO_ORIGINAL_DST: (
        "test_node_listener_behind_nat.py::test_only_redirected_connections_to_the_nodes_address_are_served",
        (
            "test_redirected_connections.py::test_a_redirected_connection_reports_its_original_destination_and_gets_fast"
            "_answers_a_direct_one_does_not"
        ),
    ),
}
"""Tests in tests/contract/native by reason: all cases of a test, or one."""


def reason_of(node_id: str) -> str:
    """Return why the emulator cannot run this test; empty if it can."""
    name = node_id.rpartition("tests/contract/native/")[2]
    reasons = [reason for reason, tests in NOT_EMULATED.items() if {name, name.partition("[")[0]} & set(tests)]
    return reasons[0] if reasons else ""


def pytest_configure(config: pytest.Config) -> None:
    """Let a later test ignore the sockets that a listed test did not close."""
    config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnraisableExceptionWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the list."""
    for item in items:
        if reason := reason_of(item.nodeid):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=reason != TCP_INFO))
            item.add_marker(pytest.mark.timeout(60))
