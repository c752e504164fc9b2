"""Every row of a threat table has a mutant, and every mutant fits the present code. Excluded: `make mutants` itself."""

import pytest

from benchmarks.report.marks import standing
from tests.nightly.mutants.count import MAKER, PAGE, made
from tests.nightly.mutants.entries import Mutant, all_mutants, faults, uncovered
from tests.repository.docs.threat_tables import rows

MUTANTS = all_mutants()
ROWS = rows()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_an_entry_changes_one_place_of_the_code_and_names_tests_of_the_table(mutant: Mutant) -> None:
    assert list(faults(mutant, ROWS)) == []


def test_every_row_has_its_own_mutant() -> None:
    missing = [f"line {row.line}: {row.threat}" for row in uncovered(ROWS, MUTANTS)]
    assert not missing, "add an entry to tests/nightly/mutants whose tests are all named in that row"


def test_no_change_is_listed_twice() -> None:
    changes = [(mutant.file, mutant.find, mutant.replace, mutant.tests) for mutant in MUTANTS]
    assert len(set(changes)) == len(changes)


def test_the_page_states_the_present_count() -> None:
    assert standing(PAGE, MAKER) == made(), "run `make docs`"
