"""The mutants of tests/nightly/mutants/*.toml: changes that break one promise of docs/security.md each.

A mutant is a text that occurs exactly once in a tracked file of the product, the text that replaces it, and the tests
that must fail when it is replaced. Those tests are named in a row of a threat table.
"""

import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from tests.repository.docs.threat_tables import Row, exists
from tests.support.checkout import ROOT

HERE: Final = Path(__file__).parent
NOT_THE_PRODUCT: Final = ("tests/", "benchmarks/", "docs/", "tools/")
"""A change there breaks a test or a page and no promise."""


class MutantError(Exception):
    """An entry that cannot be used. The text names the error."""


@dataclass(frozen=True)
class Mutant:
    """One entry."""

    topic: str
    """Name of its TOML file, without the suffix."""
    number: int
    """Its place in that file, counted from 1."""
    breaks: str
    tests: tuple[str, ...]
    file: str
    find: str
    replace: str
    slow: bool = False
    """Whether it takes a control plane, a load or minutes: it then runs alone, and not with FAST=1."""

    @property
    def name(self) -> str:
        """Return the text that identifies it in messages."""
        return f"{self.topic}/{self.number}"

    def applied(self, text: str) -> str:
        """Return *text*, the content of its file, with the change made. Raise MutantError if that is ambiguous."""
        if (times := text.count(self.find)) != 1:
            raise MutantError(f"{self.name}: its text to find occurs {times} times in {self.file}; renew the entry")
        return text.replace(self.find, self.replace)


TYPES: Final = {"breaks": str, "tests": list, "file": str, "find": str, "replace": str, "slow": bool}
REQUIRED: Final = {each.name for each in fields(Mutant)} - {"topic", "number", "slow"}


def read(path: Path) -> list[Mutant]:
    """Return the entries of one file. Raise MutantError if one has a wrong shape."""
    try:
        document = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise MutantError(f"{path.name} is not TOML: {error}") from error
    if document.keys() != {"mutant"}:
        raise MutantError(f"{path.name} must contain [[mutant]] entries only")
    return [_mutant(path.stem, number, entry) for number, entry in enumerate(document["mutant"], 1)]


def _mutant(topic: str, number: int, entry: dict[str, object]) -> Mutant:
    name = f"{topic}/{number}"
    if missing := REQUIRED - entry.keys():
        raise MutantError(f"{name} lacks {', '.join(sorted(missing))}")
    if unknown := entry.keys() - TYPES.keys():
        raise MutantError(f"{name} has unknown keys: {', '.join(sorted(unknown))}")
    for key, value in entry.items():
        if type(value) is not TYPES[key]:
            raise MutantError(f"{name}: {key} must be of type {TYPES[key].__name__}")
    tests = entry.pop("tests")
    assert isinstance(tests, list)
    if not tests or not all(isinstance(each, str) for each in tests) or len(set(tests)) != len(tests):
        raise MutantError(f"{name}: tests must name at least one test, each once")
    return Mutant(topic, number, tests=tuple(tests), **entry)  # type: ignore[arg-type]  # compared with TYPES above


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


def fault(mutant: Mutant, rows: Sequence[Row]) -> str | None:
    """Return the error of an entry of the right type, or None."""
    return next(_faults(mutant, rows), None)


def _faults(mutant: Mutant, rows: Sequence[Row]) -> Iterator[str]:
    named = {test for row in rows for test in row.tests}
    if mutant.file not in tracked() or not (ROOT / mutant.file).is_file():
        yield f"{mutant.file} is not a tracked file"
    elif mutant.file.startswith(NOT_THE_PRODUCT):
        yield f"{mutant.file} is no part of the product"
    else:
        text = (ROOT / mutant.file).read_text()
        try:
            changed = mutant.applied(text)
        except MutantError as error:
            yield str(error)
        else:
            if changed == text:
                yield "it changes nothing"
    if not mutant.breaks.strip() or "\n" in mutant.breaks.strip():
        yield "breaks must be one sentence"
    if missing := [test for test in mutant.tests if not exists(test)]:
        yield f"no such test: {', '.join(missing)}"
    if unnamed := [test for test in mutant.tests if test not in named]:
        yield f"no row of docs/security.md names {', '.join(unnamed)}"


def covers(mutant: Mutant, row: Row) -> bool:
    """Return whether *mutant* may be the one of *row*: all of its tests are named there."""
    return set(mutant.tests) <= set(row.tests)


def uncovered(rows: Sequence[Row], mutants: Sequence[Mutant]) -> list[Row]:
    """Return the rows without a mutant.

    Rows that share a test need a mutant each: rows and mutants are matched one to one, as many rows as possible
    (augmenting paths, Kuhn's method).
    """
    candidates = [[mutant.name for mutant in mutants if covers(mutant, row)] for row in rows]
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
