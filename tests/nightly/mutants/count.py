"""`python -m tests.nightly.mutants.count` writes the numbers of threats and mutants into docs/threats.md."""

import re
from collections import Counter
from typing import Final

from benchmarks.report.marks import put
from tests.nightly.mutants.entries import all_mutants, uncovered
from tests.repository.docs.threat_tables import rows
from tests.support.checkout import ROOT

MAKER: Final = "tests.nightly.mutants.count"
PAGE: Final = ROOT / "docs" / "threats.md"


def made() -> str:
    """Return the threats of each section, and the line about the mutants, for the rows and entries as they are now."""
    table, mutants = rows(), all_mutants()
    sections = Counter(row.section for row in table)
    lines = ["| section | threats |", "| --- | ---: |"]
    lines += [f"| {_link(section)} | {number} |" for section, number in sections.items()]
    covered = len(table) - len(uncovered(table, mutants))
    return "\n".join([*lines, "", f"Mutations: {covered} of {len(table)} rows, {len(mutants)} in all."])


def _link(section: str) -> str:
    """Return a link to the heading *section*, with the anchor that GitHub and the site give it."""
    anchor = re.sub(r"[^\w -]", "", section.lower()).replace(" ", "-")
    return f"[{section}](#{anchor})"


if __name__ == "__main__":
    put(PAGE, MAKER, made())
