"""The compatibility tables in README.md and docs/compatibility.md, written from the results of tests that ran.

`scenarios/test_data_planes.py` writes the results of a run to build/node/data_planes.json, and `on_cilium/` to
build/node/cilium.json. `python -m tests.system.node.matrix` adds them to the files of this folder with the same names,
which are parts of the repository, and writes the documents.
"""

import ast
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report.marks import put
from tests.support import recorded
from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.system.node import oci
from tests.system.node.cilium_programs import Routing
from tests.system.node.data_planes import BACKENDS, CHECKS, CNIS, PROXIES, TARGETS, Cell
from tests.system.node.programs import BUILD, HERE, IMAGES

MAKER: Final = "tests.system.node.matrix"
CELLS: Final = "data_planes.json"
CILIUM: Final = "cilium.json"
PAGE: Final = ROOT / "docs" / "compatibility.md"
README: Final = ROOT / "README.md"
SOURCES: Final = ("nmi", "mic", "podidentity", "_native", "deploy")
"""The directories whose changes a commit must contain, so that its id states what was tested."""
MODULES: Final[Mapping[Routing, Path]] = {
    routing: HERE / "on_cilium" / f"test_{routing}_host_routing.py" for routing in ("legacy", "ebpf")
}
"""The tests for each host routing of Cilium."""
OTHERS: Final = "`iptables-nft`, `iptables-legacy`, `nftables`"
WITHOUT_EFFECT: Final = "eBPF host routing bypasses netfilter, so that rules have no effect; NMI is then not Ready."


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """When and where tests ran."""

    date: str
    commit: str
    """The commit of the images."""
    kernel: str
    kubernetes: str

    def status(self, passed: Mapping[str, bool], required: Sequence[str], *, details: bool) -> str:
        """Return `tested` or `fails`; *details* adds date and commit. A required check that did not run has failed."""
        failed = [name for name in required if not passed.get(name, False)]
        word = f"fails ({', '.join(failed)})" if failed else "tested"
        return f"{word} {self.date} {self.commit}" if details else word


class CellResult(Run, frozen=True, kw_only=True):
    """The result of the checks of one cell in one run."""

    cell: Cell
    selected: str
    """The backend that NMI reported."""
    checks: dict[str, bool]
    """Whether each check that started has passed."""


class CiliumResult(Run, frozen=True, kw_only=True):
    """The result of the tests for one host routing of Cilium in one run."""

    routing: Routing
    cilium: str
    tests: dict[str, bool]
    """Whether each test that ran has passed, by the name of its function."""


Cells = Mapping[Cell, CellResult]
Cilium = Mapping[Routing, CiliumResult]
Part = Callable[[Cells, Cilium], str]
"""Returns the generated part of a document."""


def circumstances() -> dict[str, str]:
    """Return the fields of a run on this machine, with the images of this checkout."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": oci.read_labels(IMAGES / "nmi.tar").get("org.opencontainers.image.revision", "unknown")[:7],
        "kernel": platform.release().partition("-")[0],
        "kubernetes": up.VERSION,
    }


def read_cells(folder: Path) -> dict[Cell, CellResult]:
    """Return the results in a folder by their cell."""
    return {each.cell: each for each in recorded.read(folder / CELLS, CellResult)}


def read_cilium(folder: Path) -> dict[Routing, CiliumResult]:
    """Return the results in a folder by their host routing."""
    return {each.routing: each for each in recorded.read(folder / CILIUM, CiliumResult)}


def add(folder: Path, cells: Cells, cilium: Cilium) -> None:
    """Replace the results of these cells and host routings in a folder."""
    known = {**read_cells(folder), **cells}
    recorded.write(folder / CELLS, (known[cell] for cell in sorted(known)))
    modules = {**read_cilium(folder), **cilium}
    recorded.write(folder / CILIUM, (modules[routing] for routing in MODULES if routing in modules))


def names_of_tests(module: Path) -> set[str]:
    """Return the names of the test functions of a module, which is not imported."""
    tree = ast.parse(module.read_text())
    return {each.name for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")}


def cell_status(results: Cells, cell: Cell, *, details: bool) -> str:
    """Return the text of a cell, which is `expected` without a result.

    A cell of `auto` is `not selected` if a run on such nodes selected the other target.
    """
    if (result := results.get(cell)) is not None:
        return result.status(result.checks, CHECKS, details=details)
    others = (msgspec.structs.replace(cell, target=target) for target in TARGETS)
    return "not selected" if cell.backend == "auto" and any(each in results for each in others) else "expected"


def cilium_status(results: Cilium, routing: Routing, *, details: bool) -> str:
    """Return the text of a host routing. A test that is newer than the recorded run counts as failed."""
    if (result := results.get(routing)) is None:
        return "expected"
    return result.status(result.tests, sorted(names_of_tests(MODULES[routing])), details=details)


def table(results: Cells, *, details: bool) -> str:
    """Return the matrix as a table. Backends with equal cells on a kind of node share a row."""
    columns = [(target, cni) for target in TARGETS for cni in CNIS]
    rows: dict[tuple[str, ...], list[str]] = {}
    for proxy, name in PROXIES.items():
        for backend in BACKENDS:
            cells = (Cell(proxy=proxy, cni=cni, backend=backend, target=target) for target, cni in columns)
            texts = [cell_status(results, cell, details=details) for cell in cells]
            rows.setdefault((name, *texts), []).append(f"`{backend}`")
    heads = ["kube-proxy", "backend", *(f"to {target}, {CNIS[cni]}" for target, cni in columns)]
    return _table(heads, *([name, ", ".join(backends), *texts] for (name, *texts), backends in rows.items()))


def cilium_table(results: Cilium, *, details: bool) -> str:
    """Return the table of the backends for each host routing of Cilium."""
    return _table(
        ["host routing of Cilium", "backend", "status"],
        ["legacy", "`auto`", cilium_status(results, "legacy", details=details)],
        ["legacy", OTHERS, "expected"],
        ["eBPF", f"`auto`, {OTHERS}", "not supported"],
        ["eBPF", "`cilium`", cilium_status(results, "ebpf", details=details)],
    )


def _table(heads: Sequence[str], *rows: Sequence[str]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def summary(cells: Cells, cilium: Cilium) -> str:
    """Return the part of README.md."""
    return f"{table(cells, details=False)}\n\n{cilium_table(cilium, details=False)}"


def page(cells: Cells, cilium: Cilium) -> str:
    """Return the part of docs/compatibility.md: the tables, what `auto` selected, and the test beds."""
    selected = sorted(
        f"* {PROXIES[cell.proxy]}, {CNIS[cell.cni]}: `auto` selected `{result.selected}` with target `{cell.target}`."
        for cell, result in cells.items()
        if cell.backend == "auto" and result.selected
    )
    beds = {f"Linux {each.kernel} with Kubernetes {each.kubernetes}" for each in cells.values()}
    beds |= {
        f"Linux {each.kernel} with Kubernetes {each.kubernetes} and Cilium {each.cilium}" for each in cilium.values()
    }
    parts = [
        table(cells, details=True),
        "\n".join(selected),
        cilium_table(cilium, details=True),
        f"Not supported: {WITHOUT_EFFECT}",
        f"The test beds had {'; '.join(sorted(beds))}." if beds else "",
    ]
    return "\n\n".join(filter(None, parts))


def uncommitted() -> str:
    """Return the changed files of SOURCES, as git lists them; empty if all are committed."""
    command = ["git", "status", "--porcelain", "--", *SOURCES]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main(new: Path = BUILD, kept: Path = HERE, documents: Sequence[Path] = (README, PAGE)) -> None:
    """Add the results of the last runs, if there are any, and write the documents.

    Exit with a message if the sources have changes that no commit contains.
    """
    cells, cilium = read_cells(new), read_cilium(new)
    if (cells or cilium) and (changes := uncommitted()):
        sys.exit(f"the results cannot name a commit, because these changes are in none; commit them:\n{changes}")
    add(kept, cells, cilium)
    for document, part in zip(documents, (summary, page), strict=True):
        put(document, MAKER, part(read_cells(kept), read_cilium(kept)))
    for name in (CELLS, CILIUM):
        (new / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
