"""The compatibility matrix in README.md and docs/compatibility.md, written from the results of tests that ran.

`scenarios/test_data_planes.py` writes the results of a run to build/node/data_planes.json, and `on_cilium/` to
build/node/cilium.json. `python -m tests.realnode.matrix` adds them to the files of this folder with the same names,
which are parts of the repository, and writes the documents.
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
from tests.realnode import cilium_results, oci
from tests.realnode.cilium_programs import Routing
from tests.realnode.cilium_results import CiliumResult
from tests.realnode.data_planes import BACKENDS, CHECKS, CNIS, PROXIES, TARGETS, Backend, Cell, Proxy, Target
from tests.realnode.options import Cni
from tests.realnode.programs import BUILD, HERE, IMAGES, ROOT
from tests.recorded import one_per_line
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
Part = Callable[[Results, cilium_results.Results], str]
"""Returns the generated part of a document."""


def result_of(cell: Cell, selected: str, checks: Mapping[str, bool]) -> CellResult:
    """Return the result of a cell that has just run on this machine, with the images of this checkout."""
    return CellResult(cell=cell, selected=selected, checks=dict(checks), **_circumstances())


def cilium_result_of(routing: Routing, cilium: str, tests: Mapping[str, bool]) -> CiliumResult:
    """Return the result of tests that have just run on this machine with a version of Cilium."""
    return CiliumResult(routing=routing, cilium=cilium, tests=dict(tests), **_circumstances())


def _circumstances() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": oci.read_labels(IMAGES / "nmi.tar").get("org.opencontainers.image.revision", "unknown")[:7],
        "kernel": platform.release().partition("-")[0],
        "kubernetes": up.VERSION,
    }


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
    file.write_bytes(one_per_line(ordered))


def add(file: Path, results: Iterable[CellResult]) -> None:
    """Replace the results of these cells in a file."""
    write(file, {**read(file), **{each.cell: each for each in results}})


def status(results: Results, cell: Cell, *, details: bool) -> str:
    """Return the text of a cell: `tested`, `fails`, `expected` or `not selected`; *details* adds date and commit.

    A cell of `auto` is `not selected` if a run on such nodes selected the other target.
    """
    result = results.get(cell)
    if result is None:
        others = (msgspec.structs.replace(cell, target=target) for target in TARGETS)
        return "not selected" if cell.backend == "auto" and any(each in results for each in others) else "expected"
    word = "tested" if result.passed else f"fails ({', '.join(result.failed_checks)})"
    return f"{word} {result.date} {result.commit}" if details else word


def table(results: Results, *, details: bool) -> str:
    """Return the matrix as a table. Backends with equal cells on a kind of node share a row."""
    columns = [(target, cni) for target in TARGETS for cni in CNIS]
    heads = ["kube-proxy", "backend", *(f"to {target}, {CNIS[cni]}" for target, cni in columns)]
    rows: dict[tuple[str, ...], list[str]] = {}
    for proxy in PROXIES:
        for backend in BACKENDS:
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


def summary(results: Results, cilium: cilium_results.Results) -> str:
    """Return the part of README.md."""
    return f"{table(results, details=False)}\n\n{cilium_results.table(cilium, details=False)}"


def page(results: Results, cilium: cilium_results.Results) -> str:
    """Return the part of docs/compatibility.md: the tables, what `auto` selected, and the test beds."""
    selected = sorted(
        f"* {PROXIES[cell.proxy]}, {CNIS[cell.cni]}: `auto` selected `{result.selected}` with target `{cell.target}`."
        for cell, result in results.items()
        if cell.backend == "auto" and result.selected
    )
    beds = {f"Linux {each.kernel} with Kubernetes {each.kubernetes}" for each in results.values()}
    beds |= {
        f"Linux {each.kernel} with Kubernetes {each.kubernetes} and Cilium {each.cilium}" for each in cilium.values()
    }
    parts = [
        table(results, details=True),
        "\n".join(selected),
        cilium_results.table(cilium, details=True),
        f"Not supported: {cilium_results.WITHOUT_EFFECT}",
        f"The test beds had {'; '.join(sorted(beds))}." if beds else "",
    ]
    return "\n\n".join(filter(None, parts))


def uncommitted() -> str:
    """Return the changed files of SOURCES, as git lists them; empty if all are committed."""
    command = ["git", "status", "--porcelain", "--", *SOURCES]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


class Records(msgspec.Struct, frozen=True):
    """The files with the results of both kinds of nodes."""

    data_planes: Path
    cilium: Path

    def remove(self) -> None:
        """Remove the files that exist."""
        self.data_planes.unlink(missing_ok=True)
        self.cilium.unlink(missing_ok=True)


NEW: Final = Records(NEW_RESULTS, cilium_results.NEW_RESULTS)
RECORDED: Final = Records(RESULTS, cilium_results.RESULTS)


def main(new: Records = NEW, recorded: Records = RECORDED, documents: Sequence[Path] = (README, PAGE)) -> None:
    """Add the results of the last runs, if there are any, and write the documents.

    Exit with a message if the sources have changes that no commit contains.
    """
    cells, modules = read(new.data_planes), cilium_results.read(new.cilium)
    if (cells or modules) and (changes := uncommitted()):
        sys.exit(f"the results cannot name a commit, because these changes are in none; commit them:\n{changes}")
    add(recorded.data_planes, cells.values())
    cilium_results.add(recorded.cilium, modules.values())
    for document, part in zip(documents, (summary, page), strict=True):
        put(document, MAKER, part(read(recorded.data_planes), cilium_results.read(recorded.cilium)))
    new.remove()


if __name__ == "__main__":
    main()
