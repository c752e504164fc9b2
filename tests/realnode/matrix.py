"""The compatibility matrix in README.md and docs/compatibility.md, written from the results of tests that ran.

`scenarios/test_data_planes.py` writes the results of a run to build/node/data_planes.json. `python -m
tests.realnode.matrix` adds them to data_planes.json of this folder, which is a part of the repository, and writes the
documents.
"""

import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report.marks import put
from tests.realnode import oci
from tests.realnode.data_planes import (
    CHECKS,
    CNIS,
    PROXIES,
    TARGETS,
    Backend,
    Cell,
    Proxy,
    Target,
    supported_backends,
    unsupported,
)
from tests.realnode.options import Cni
from tests.realnode.programs import BUILD, HERE, IMAGES, ROOT
from tests.testplane import up

MAKER: Final = "tests.realnode.matrix"
NEW_RESULTS: Final = BUILD / "data_planes.json"
RESULTS: Final = HERE / "data_planes.json"
PAGE: Final = ROOT / "docs" / "compatibility.md"
README: Final = ROOT / "README.md"
SOURCES: Final = ("nmi", "mic", "podidentity", "_native", "deploy")
"""The directories whose changes a commit must contain, so that its id states what was tested."""


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the checks of one cell in one run."""

    cell: Cell
    date: str
    commit: str
    """The commit of the images."""
    kernel: str
    kubernetes: str
    selected: str
    """The backend that NMI reported."""
    checks: dict[str, bool]
    """Whether each check that started has passed."""

    @property
    def passed(self) -> bool:
        return all(self.checks.get(name, False) for name in CHECKS)

    @property
    def failed_checks(self) -> list[str]:
        """The checks that failed or did not run, in their order."""
        return [name for name in CHECKS if not self.checks.get(name, False)]


Results = Mapping[Cell, CellResult]
Part = Callable[[Results], str]
"""Returns the generated part of a document."""


def result_of(cell: Cell, selected: str, checks: Mapping[str, bool]) -> CellResult:
    """Return the result of a cell that has just run on this machine, with the images of this checkout."""
    commit = oci.read_labels(IMAGES / "nmi.tar").get("org.opencontainers.image.revision", "unknown")[:7]
    return CellResult(
        cell=cell,
        date=datetime.now(UTC).date().isoformat(),
        commit=commit,
        kernel=platform.release().partition("-")[0],
        kubernetes=up.VERSION,
        selected=selected,
        checks=dict(checks),
    )


def read(file: Path) -> dict[Cell, CellResult]:
    """Return the results in a file by their cell; none if it is missing."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[CellResult])
    except FileNotFoundError:
        return {}
    return {each.cell: each for each in found}


def write(file: Path, results: Results) -> None:
    """Write results in the order of their cells."""
    ordered = [results[cell] for cell in sorted(results)]
    file.write_bytes(msgspec.json.format(msgspec.json.encode(ordered)) + b"\n")


def add(file: Path, results: Iterable[CellResult]) -> None:
    """Replace the results of these cells in a file."""
    write(file, {**read(file), **{each.cell: each for each in results}})


def status(results: Results, cell: Cell, *, details: bool) -> str:
    """Return the text of a cell: `tested`, `fails`, `expected` or `not supported`; *details* adds date and commit."""
    if unsupported(cell.proxy, cell.backend, cell.target):
        return "not supported"
    result = results.get(cell)
    if result is None:
        return "expected"
    word = "tested" if result.passed else f"fails ({', '.join(result.failed_checks)})"
    return f"{word} {result.date} {result.commit}" if details else word


def table(results: Results, *, details: bool) -> str:
    """Return the matrix as a table. Backends with equal cells on a kind of node share a row."""
    columns = [(target, cni) for target in TARGETS for cni in CNIS]
    heads = ["kube-proxy", "backend", *(f"to {target}, {CNIS[cni]}" for target, cni in columns)]
    rows: dict[tuple[str, ...], list[str]] = {}
    for proxy in PROXIES:
        for backend in supported_backends(proxy):
            cells = _cells(results, proxy, backend, columns, details=details)
            rows.setdefault((PROXIES[proxy], *cells), []).append(f"`{backend}`")
    lines = [[proxy, ", ".join(backends), *cells] for (proxy, *cells), backends in rows.items()]
    return "\n".join(_row(each) for each in (heads, ["---"] * len(heads), *lines))


def _cells(
    results: Results, proxy: Proxy, backend: Backend, columns: Sequence[tuple[Target, Cni]], *, details: bool
) -> list[str]:
    return [
        status(results, Cell(proxy=proxy, cni=cni, backend=backend, target=target), details=details)
        for target, cni in columns
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def summary(results: Results) -> str:
    """Return the part of README.md."""
    return table(results, details=False)


def page(results: Results) -> str:
    """Return the part of docs/compatibility.md: the table, what `auto` selected, and the reasons."""
    selected = sorted(
        f"* {PROXIES[cell.proxy]}, {CNIS[cell.cni]}: `auto` selected `{result.selected}` with target `{cell.target}`."
        for cell, result in results.items()
        if cell.backend == "auto" and result.selected
    )
    reasons = sorted(
        {
            reason
            for proxy in PROXIES
            for backend in supported_backends(proxy)
            for target in TARGETS
            if (reason := unsupported(proxy, backend, target))
        }
    )
    machines = sorted({f"Linux {each.kernel} with Kubernetes {each.kubernetes}" for each in results.values()})
    parts = [
        table(results, details=True),
        "\n".join(selected),
        "Not supported:\n\n" + "\n".join(f"* {each}" for each in reasons),
        f"The test beds had {' and '.join(machines)}." if machines else "",
    ]
    return "\n\n".join(filter(None, parts))


def uncommitted() -> str:
    """Return the changed files of SOURCES, as git lists them; empty if all are committed."""
    command = ["git", "status", "--porcelain", "--", *SOURCES]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main(new: Path = NEW_RESULTS, results: Path = RESULTS, documents: Sequence[Path] = (README, PAGE)) -> None:
    """Add the results of the last run, if there are any, and write the documents.

    Exit with a message if the sources have changes that no commit contains.
    """
    found = read(new)
    if found and (changes := uncommitted()):
        sys.exit(f"the results cannot name a commit, because these changes are in none; commit them:\n{changes}")
    add(results, found.values())
    recorded = read(results)
    for document, part in zip(documents, (summary, page), strict=True):
        put(document, MAKER, part(recorded))
    new.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
