"""Every row of a threat table has a mutant, and every mutant fits the present code. Excluded: `make mutants` itself."""

import pytest

from benchmarks.report.marks import standing
from tests.nightly.mutants.count import MAKER, PAGE, made
from tests.nightly.mutants.entries import Mutant, all_mutants, fault, uncovered
from tests.repository.docs.threat_tables import rows

MUTANTS = all_mutants()
ROWS = rows()
POLICY_TESTS = "tests/system/plane/deploy/test_token_policy.py"
WITHOUT_A_MUTANT = {
    # The API server itself refuses it: no change of ours lets it through.
    f"{POLICY_TESTS}::test_a_pods_successor_or_a_pod_of_another_service_account_gets_none_from_the_api_server_itself",
    # Each of these changes alone leaves the 99th percentile below its bound: a turn of a second, no limit of a peer's
    # requests in one turn, all of a peer's turns before the next peer's. Find one that does not, or a stricter bound.
    "tests/system/local/integration/test_greedy_pods.py::test_a_flood_from_one_pod_does_not_change_another_pods_p99",
}
"""Tests of a row for which there is none, with the reason; the row has another."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_an_entry_changes_one_place_of_the_code_and_names_tests_of_the_table(mutant: Mutant) -> None:
    assert fault(mutant, ROWS) is None


def test_every_row_has_its_own_mutant() -> None:
    missing = [f"line {row.line}: {row.threat}" for row in uncovered(ROWS, MUTANTS)]
    assert not missing, "add an entry to tests/nightly/mutants whose tests are all named in that row"


def test_every_test_that_a_row_names_fails_on_a_mutant() -> None:
    used = {test for mutant in MUTANTS for test in mutant.tests}
    assert {test for row in ROWS for test in row.tests} - used == WITHOUT_A_MUTANT


def test_no_change_is_listed_twice() -> None:
    changes = [(mutant.file, mutant.find, mutant.replace, mutant.tests) for mutant in MUTANTS]
    assert len(set(changes)) == len(changes)


def test_the_page_states_the_present_count() -> None:
    assert standing(PAGE, MAKER) == made(), "run `make docs`"
