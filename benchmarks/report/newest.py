"""The part of docs/performance.md on NMI's requests, generated from the newest accepted full run:

    python -m benchmarks.report.newest

writes its table, and puts the short form of the table between the two marks of the document.
"""

import os
from pathlib import Path
from typing import Final

from benchmarks.machine import ROOT
from benchmarks.paired import objections
from benchmarks.report.marks import put
from benchmarks.report.table import FILE, short, store
from benchmarks.results import FOLDER, Results, read

DOCUMENT: Final = ROOT / "docs" / "performance.md"
MAKER: Final = "benchmarks.report.newest"
NONE: Final = "No full run has been accepted yet."


def newest(folder: Path = FOLDER) -> tuple[Path, Results] | None:
    """Return the latest accepted full run."""
    runs = [(file, read(file)) for file in folder.glob("2*.json")]
    accepted = [(file, results) for file, results in runs if results.full and not objections(results)]
    return max(accepted, key=lambda run: run[1].date, default=None)


def made(document: Path, folder: Path = FOLDER) -> str:
    """Return the text between the marks of *document*."""
    run = newest(folder)
    if run is None:
        return NONE
    file, results = run
    at = Path(os.path.relpath(file.parent, document.parent))
    whole = f"[All figures]({at / file.stem / FILE})"
    return "\n\n".join([short(results), whole])


def renew(document: Path, folder: Path = FOLDER) -> None:
    """Generate the table and the document's part again."""
    if run := newest(folder):
        store(*run)
    put(document, MAKER, made(document, folder))


def main() -> None:
    renew(DOCUMENT)


if __name__ == "__main__":
    main()
