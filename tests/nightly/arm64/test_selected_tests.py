"""What a run under qemu-user and in the machine for arm64 tests, and when it has failed."""

import pytest

from tests.nightly.arm64.emulated import NOT_EMULATED, TCP_INFO, reason_of
from tests.nightly.arm64.machine import TESTS, cause_of_failure
from tests.repository.docs.threat_tables import exists
from tests.support.checkout import ROOT

PASSED = "test_a PASSED\n==== 1 passed in 3.00s ====\narm64 machine: pytest ended with 0\n"


def test_the_named_tests_exist() -> None:
    named = [f"tests/contract/native/{test}" for tests in NOT_EMULATED.values() for test in tests] + list(TESTS)
    missing = [
        test for test in named if not (exists(test.partition("[")[0]) if "::" in test else (ROOT / test).is_file())
    ]
    assert missing == []


@pytest.mark.parametrize("code", ["1", "137"])
def test_another_exit_code_of_pytest_fails_the_run(code: str) -> None:
    assert cause_of_failure(PASSED) == ""
    assert f"pytest in the machine ended with {code};" in cause_of_failure(PASSED.replace("with 0", f"with {code}"))


def test_an_entry_of_the_list_means_all_cases_or_one() -> None:
    test = "tests/contract/native/test_lane_limits.py::test_connections_of_one_peer_are_served_in_rotation"
    assert reason_of(f"{test}[uvloop]") == reason_of(test) == TCP_INFO
    test = (
        "tests/contract/native/test_lane_back_pressure.py::test_a_slot_is_occupied_until_the_peer_has_read_its_answers"
    )
    assert reason_of(f"{test}[uvloop-by its peer]")
    assert not reason_of(f"{test}[asyncio-by its peer]")


@pytest.mark.parametrize(
    "console",
    [
        "",
        PASSED.replace("arm64 machine", "[    3.1] Kernel panic - not syncing\n# arm64 machine"),
        PASSED.rpartition("0\n")[0],
        PASSED.replace("ended with 0", "ended with 0 (expected)"),
    ],
    ids=["no output", "another line", "cut off", "continued"],
)
def test_a_machine_without_the_line_of_a_result_fails_the_run(console: str) -> None:
    assert cause_of_failure(console).startswith("the machine ended, or its time limit passed, before pytest did")
