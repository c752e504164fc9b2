"""The list of the tests that qemu-user cannot run."""

import ast
from pathlib import Path

import pytest

from tests.arm64.emulated import NOT_EMULATED, TCP_INFO, reason_of

NATIVE = Path(__file__).parents[1] / "native"
LISTED = [each for tests in NOT_EMULATED.values() for each in tests]


@pytest.mark.parametrize("listed", LISTED)
def test_a_listed_test_exists(listed: str) -> None:
    file, _, name = listed.partition("[")[0].partition("::")
    tree = ast.parse((NATIVE / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {each.name for each in tree.body if isinstance(each, kinds)}


def test_an_entry_without_parameters_means_all_cases() -> None:
    test = "tests/native/test_lane_limits.py::test_connections_of_one_peer_are_served_in_rotation"
    assert reason_of(f"{test}[uvloop]") == reason_of(test) == TCP_INFO
    assert reason_of("tests/native/test_lane_limits.py::test_one_peer_gets_at_most_its_slots[uvloop]") == ""


def test_an_entry_with_parameters_means_one_case() -> None:
    test = "tests/native/test_lane_memory.py::test_a_slot_is_occupied_until_the_peer_has_read_its_answers"
    assert reason_of(f"{test}[uvloop-by its peer]")
    assert not reason_of(f"{test}[asyncio-by its peer]")
