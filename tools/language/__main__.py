"""Fail where a directory has more banned phrases than its budget allows: `python -m tools.language [--write]`.

phrases.txt lists the phrases, budget.json the number that each directory may have. The numbers only get smaller:
--write lowers them to the present numbers.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
BUDGET: Final = HERE / "budget.json"
PHRASES: Final = HERE / "phrases.txt"
SUFFIXES: Final = frozenset(
    {".py", ".pyi", ".pyx", ".pxd", ".md", ".yaml", ".yml", ".toml", ".sh", ".c", ".go", ".txt", ".pml", ""}
)
EXEMPT: Final = (
    "LICENSE",
    "tools/language/",
    "tests/repository/suite/test_language.py",
    "tests/nightly/fuzz/corpus/",
    "deploy/crds/",
)
"""Foreign texts, test inputs, and the list itself with its tests."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A banned phrase and its replacement."""

    pattern: re.Pattern[str]
    advice: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One use of a banned phrase."""

    path: str
    line: int
    text: str
    advice: str

    @property
    def directory(self) -> str:
        """The key of the budget: the top directory, below tests/ also the next one; "." for files of the root."""
        parts = Path(self.path).parent.parts
        return "/".join(parts[: 2 if parts[:1] == ("tests",) else 1]) or "."


def read_phrases(text: str) -> list[Phrase]:
    """Return the phrases of phrases.txt."""
    phrases = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            expression, _, advice = line.partition("\t")
            # A comment continues after a line break, spaces and a comment sign.
            spaced = expression.replace(" ", r"(?:[_ ]|\s*\n[ \t]*(?:# ?)?)")
            phrases.append(Phrase(re.compile(rf"(?<![A-Za-z])(?:{spaced})(?![A-Za-z])", re.IGNORECASE), advice))
    return phrases


def findings(path: str, text: str, phrases: Sequence[Phrase]) -> Iterator[Finding]:
    """Yield the uses of *phrases* in *text*, the content of *path*."""
    for phrase in phrases:
        for match in phrase.pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield Finding(path, line, " ".join(match[0].split()), phrase.advice)


def tracked() -> Iterator[str]:
    """Yield the paths of the text files that git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in listed.splitlines():
        if Path(path).suffix in SUFFIXES and not path.startswith(EXEMPT) and (ROOT / path).is_file():
            yield path


def over_budget(counts: Mapping[str, int], budget: Mapping[str, int]) -> list[str]:
    """Return the directories that have more phrases than *budget* allows."""
    return sorted(name for name, count in counts.items() if count > budget.get(name, 0))


def main() -> int:
    """Return the exit code: 1 if a directory exceeds its budget."""
    parser = argparse.ArgumentParser(prog="python -m tools.language", description=__doc__)
    parser.add_argument("--write", action="store_true", help="lower the budget to the present numbers")
    parser.add_argument("--all", action="store_true", help="print all uses, also those within the budget")
    options = parser.parse_args()
    phrases = read_phrases(PHRASES.read_text())
    all_findings = [
        finding for path in tracked() for finding in findings(path, (ROOT / path).read_text(errors="replace"), phrases)
    ]
    counts = Counter(finding.directory for finding in all_findings)
    budget: dict[str, int] = json.loads(BUDGET.read_text())
    failed = over_budget(counts, budget)
    for finding in all_findings:
        if options.all or finding.directory in failed:
            print(f"{finding.path}:{finding.line}: {finding.text!r}: write {finding.advice}")  # noqa: T201
    if failed:
        shown = ", ".join(f"{name} has {counts[name]}, allowed are {budget.get(name, 0)}" for name in failed)
        print(f"too many banned phrases: {shown}", file=sys.stderr)  # noqa: T201
        return 1
    lower = {name: counts[name] for name in sorted(counts)}
    if options.write:
        BUDGET.write_text(json.dumps(lower, indent=2) + "\n")
    elif sum(lower.values()) < sum(budget.values()):
        print("fewer banned phrases than the budget allows: run python -m tools.language --write")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
