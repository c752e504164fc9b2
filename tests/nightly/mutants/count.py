"""`python -m tests.nightly.mutants.count` writes the number of mutants into docs/security.md."""

from typing import Final

from benchmarks.report.marks import put
from tests.nightly.mutants.entries import all_mutants, uncovered
from tests.repository.docs.threat_tables import rows
from tests.support.checkout import ROOT

MAKER: Final = "tests.nightly.mutants.count"
PAGE: Final = ROOT / "docs" / "security.md"


def made() -> str:
    """Return the line for the entries and rows as they are now."""
    table, mutants = rows(), all_mutants()
    return f"Mutations: {len(table) - len(uncovered(table, mutants))} of {len(table)} rows, {len(mutants)} in all."


if __name__ == "__main__":
    put(PAGE, MAKER, made())
