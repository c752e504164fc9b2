"""The table in docs/imds-applications.md, written from the results of tests that ran.

`test_programs_that_only_know_imds.py` writes the results of a run to build/imds_programs.json. `python -m
tests.system.sdks.imds_table` adds them to imds_programs.json of this folder, which is a part of the repository, and
writes the page.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report.marks import put
from tests.support import recorded
from tests.system.sdks.imds_programs import PROGRAMS

MAKER: Final = "tests.system.sdks.imds_table"
HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]
NEW_RESULTS: Final = ROOT / "build" / "imds_programs.json"
RESULTS: Final = HERE / "imds_programs.json"
PAGE: Final = ROOT / "docs" / "imds-applications.md"
CHECKS: Final = {"only": "one identity", "named": "one of two identities", "refused": "no identity"}
"""The checks of a program, with the pod that each uses."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the checks of one program in one run."""

    name: str
    version: str
    date: str
    checks: dict[str, bool]
    """Whether each check that ran has passed."""


def read(file: Path) -> dict[str, Result]:
    """Return the results in a file by the program's name; none if it is missing."""
    return {result.name: result for result in recorded.read(file, Result)}


def add(file: Path, results: Iterable[Result]) -> None:
    """Replace the results of these programs in a file; drop those of programs that do not exist."""
    merged = {**read(file), **{result.name: result for result in results}}
    file.parent.mkdir(exist_ok=True)
    recorded.write(file, (merged[program.name] for program in PROGRAMS if program.name in merged))


def table(results: Mapping[str, Result]) -> str:
    """Return the table of all programs, in their order."""
    lines = ["| program | kind | origin | call with the token | result |", "| --- | --- | --- | --- | --- |"]
    for program in PROGRAMS:
        kind = f"library only; used by {program.used_by}" if program.used_by else "program"
        version = program.version if isinstance(program.version, str) else ""
        status = "not tried"
        if (result := results.get(program.name)) and result.checks:
            failed = [CHECKS[name] for name, passed in result.checks.items() if not passed]
            passed = ", ".join(CHECKS[name] for name in CHECKS if name in result.checks)
            status = f"fails with {', '.join(failed)} {result.date}" if failed else f"works {result.date}: {passed}"
        cells = [f"{program.name} {result.version if result else version}", kind, program.origin]
        lines.append(f"| {' | '.join(cells)} | {program.service}: {program.call} | {status} |")
    return "\n".join(lines)


def main(new: Path = NEW_RESULTS, results: Path = RESULTS, page: Path = PAGE) -> None:
    """Add the results of the last run, if there are any, and write the page."""
    add(results, read(new).values())
    put(page, MAKER, table(read(results)))
    new.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
