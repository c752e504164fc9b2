"""What a run under qemu-user and in the machine for arm64 tests, with which packages, and when it has failed."""

import ast
import re

import pytest

from tests.nightly.arm64.emulated import NOT_EMULATED, SO_MEMINFO, SO_ORIGINAL_DST, TCP_INFO, reason_of
from tests.nightly.arm64.machine import TESTS, cause_of_failure
from tests.nightly.arm64.prepare import LEFT_OUT, NEEDED, ROOT, WITHOUT_WHEELS, closure, locked

PASSED = "test_a PASSED\n==== 1 passed in 3.00s ====\narm64 machine: pytest ended with 0\n"
NOT_EMULATED_TESTS = [f"tests/contract/native/{each}" for tests in NOT_EMULATED.values() for each in tests]


@pytest.mark.parametrize("test", [*NOT_EMULATED_TESTS, *TESTS])
def test_a_named_test_exists(test: str) -> None:
    file, _, name = test.partition("[")[0].partition("::")
    tree = ast.parse((ROOT / file).read_text())
    functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions if name else functions


@pytest.mark.parametrize("code", ["1", "5", "137"])
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


def test_everything_that_socket_options_exclude_from_qemu_user_runs_in_the_machine() -> None:
    for reason in (TCP_INFO, SO_MEMINFO, SO_ORIGINAL_DST):
        assert {f"tests/contract/native/{each}" for each in NOT_EMULATED[reason]} <= set(TESTS)


def test_all_packages_of_the_tests_are_locked_with_their_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    names = closure(NEEDED) - LEFT_OUT
    assert names >= WITHOUT_WHEELS
    assert len(re.findall(r"--hash=sha256:\w+", locked(lock, names))) >= len(names)
    with pytest.raises(ValueError, match=r"requirements\.lock has no d; run make lock"):
        locked(lock, {"d"})
