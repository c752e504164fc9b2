"""`python -m tests.mutants.count` writes the number of mutants into docs/security.md."""

from typing import Final

from benchmarks.report.marks import put
from tests.docs.threat_tables import ROOT, rows
from tests.mutants.entries import all_mutants, uncovered

MAKER: Final = "tests.mutants.count"
PAGE: Final = ROOT / "docs" / "security.md"


def made() -> str:
    """Return the line for the entries and rows as they are now."""
    table, mutants = rows(), all_mutants()
    return f"Mutations: {len(table) - len(uncovered(table, mutants))} of {len(table)} rows, {len(mutants)} in all."


if __name__ == "__main__":
    put(PAGE, MAKER, made())
