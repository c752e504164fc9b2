"""The mutants of tests/nightly/mutants/*.toml: changes that break one promise of docs/threats.md each.

A mutant is a text that occurs exactly once in a tracked file of the product, the text that replaces it, and the tests
that must fail when it is replaced. Those tests are named in a row of a threat table.
"""

import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from tests.repository.docs.threat_tables import Row, exists
from tests.support.checkout import ROOT

HERE: Final = Path(__file__).parent
NOT_THE_PRODUCT: Final = ("tests/", "benchmarks/", "docs/", "tools/")
"""A change there breaks a test or a page and no promise."""


class MutantError(Exception):
    """An entry that cannot be used. The text names the error."""


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry."""

    breaks: str
    tests: tuple[str, ...]
    file: str
    find: str
    replace: str
    slow: bool = False
    """Whether it takes a control plane, a load or minutes: it then runs alone, and not with FAST=1."""
    name: str = ""
    """The name of its TOML file, without the suffix, and its place in that file, counted from 1: `node/3`."""

    def applied(self, text: str) -> str:
        """Return *text*, the content of its file, with the change made. Raise MutantError if that is ambiguous."""
        if (times := text.count(self.find)) != 1:
            raise MutantError(f"{self.name}: its text to find occurs {times} times in {self.file}; renew the entry")
        return text.replace(self.find, self.replace)


class Entries(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file."""

    mutant: list[Mutant]


def read(path: Path) -> list[Mutant]:
    """Return the entries of one file. Raise MutantError if one has a wrong shape."""
    try:
        entries = msgspec.toml.decode(path.read_bytes(), type=Entries)
    except msgspec.DecodeError as error:
        raise MutantError(f"{path.name}: {error}") from error
    return [
        msgspec.structs.replace(mutant, name=f"{path.stem}/{number}") for number, mutant in enumerate(entries.mutant, 1)
    ]


def all_mutants() -> list[Mutant]:
    """Return the entries of all files. Raise MutantError if one has a wrong shape."""
    return [mutant for path in sorted(HERE.glob("*.toml")) for mutant in read(path)]


@cache
def tracked() -> frozenset[str]:
    """Return the files that git tracks, or would with `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return frozenset(filter(None, listed.stdout.decode().split("\0")))


def faults(mutant: Mutant, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the errors of an entry of the right shape."""
    if mutant.file not in tracked() or not (ROOT / mutant.file).is_file():
        yield f"{mutant.file} is not a tracked file"
    elif mutant.file.startswith(NOT_THE_PRODUCT):
        yield f"{mutant.file} is no part of the product"
    else:
        text = (ROOT / mutant.file).read_text()
        try:
            if mutant.applied(text) == text:
                yield "it changes nothing"
        except MutantError as error:
            yield str(error)
    if not mutant.breaks.strip() or "\n" in mutant.breaks.strip():
        yield "breaks must be one sentence"
    if not mutant.tests or len(set(mutant.tests)) != len(mutant.tests):
        yield "tests must name at least one test, each once"
    if missing := [test for test in mutant.tests if not exists(test)]:
        yield f"no such test: {', '.join(missing)}"
    if unnamed := set(mutant.tests) - {test for row in rows for test in row.tests}:
        yield f"no row of docs/threats.md names {', '.join(unnamed)}"


def uncovered(rows: Sequence[Row], mutants: Sequence[Mutant]) -> list[Row]:
    """Return the rows without a mutant, all of whose tests the row must name.

    Rows that share a test need a mutant each: rows and mutants are matched one to one, as many rows as possible
    (augmenting paths, Kuhn's method).
    """
    candidates = [[mutant.name for mutant in mutants if set(mutant.tests) <= set(row.tests)] for row in rows]
    owner: dict[str, int] = {}

    def matched(row: int, seen: set[str]) -> bool:
        for name in candidates[row]:
            if name not in seen:
                seen.add(name)
                if name not in owner or matched(owner[name], seen):
                    owner[name] = row
                    return True
        return False

    return [row for number, row in enumerate(rows) if not matched(number, set())]
