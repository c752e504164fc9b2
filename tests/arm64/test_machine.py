"""What the console of the machine with a kernel for arm64 means, and the tests that it runs."""

import ast

import pytest

from tests.arm64.emulated import NOT_EMULATED, SO_MEMINFO, SO_ORIGINAL_DST, TCP_INFO
from tests.arm64.machine import TESTS, TOO_SLOW, cause_of_failure
from tests.arm64.prepare import ROOT

PASSED = "test_a PASSED\n==== 1 passed in 3.00s ====\narm64 machine: pytest ended with 0\n"


def test_the_run_passes_if_pytest_in_the_machine_passed() -> None:
    assert cause_of_failure(PASSED) == ""


@pytest.mark.parametrize("code", ["1", "5", "137"])
def test_another_exit_code_of_pytest_fails_the_run(code: str) -> None:
    assert f"pytest in the machine ended with {code};" in cause_of_failure(PASSED.replace("with 0", f"with {code}"))


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
        assert {f"tests/native/{each}" for each in NOT_EMULATED[reason]} <= set(TESTS)


@pytest.mark.parametrize("test", [*TESTS, *TOO_SLOW])
def test_a_named_test_exists(test: str) -> None:
    file, _, name = test.partition("[")[0].partition("::")
    tree = ast.parse((ROOT / file).read_text())
    functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions if name else functions
