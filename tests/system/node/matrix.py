"""The tables of data planes in docs/compatibility.md, written from the results of tests that ran.

`scenarios/test_data_planes.py` writes the results of a run to build/node/data_planes.json, and `on_cilium/` to
build/node/cilium.json. `python -m tests.system.node.matrix` adds them to the files of this folder with the same names,
which are parts of the repository, and writes the page.
"""

import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.report.marks import put
from tests.support import recorded
from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.system.node import oci
from tests.system.node.data_planes import BACKENDS, CHECKS, CNIS, PROXIES, TARGETS, Cell
from tests.system.node.programs import BUILD, HERE, IMAGES, Routing

MAKER: Final = "tests.system.node.matrix"
CELLS: Final = "data_planes.json"
CILIUM: Final = "cilium.json"
PAGE: Final = ROOT / "docs" / "compatibility.md"
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

    def status(self, passed: Mapping[str, bool], required: Iterable[str]) -> str:
        """Return `tested` or `fails`, with date and commit. A required check that did not run has failed."""
        failed = [name for name in required if not passed.get(name, False)]
        word = f"fails ({', '.join(failed)})" if failed else "tested"
        return f"{word} {self.date} {self.commit}"


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


class Results:
    """The results in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cells = {result.cell: result for result in recorded.read(folder / CELLS, CellResult)}
        self.cilium = {result.routing: result for result in recorded.read(folder / CILIUM, CiliumResult)}

    def save(self) -> None:
        """Write the results to the folder."""
        recorded.write(self._folder / CELLS, (self.cells[cell] for cell in sorted(self.cells)))
        recorded.write(self._folder / CILIUM, (self.cilium[routing] for routing in MODULES if routing in self.cilium))

    def page(self) -> str:
        """Return the generated part of the page: the tables, what `auto` selected, and the test beds."""
        selected = sorted(
            f"* {PROXIES[cell.proxy]}, {CNIS[cell.cni]}: `auto` selected `{result.selected}` with target "
            f"`{cell.target}`."
            for cell, result in self.cells.items()
            if cell.backend == "auto" and result.selected
        )
        beds = {f"Linux {result.kernel} with Kubernetes {result.kubernetes}" for result in self.cells.values()}
        beds |= {
            f"Linux {result.kernel} with Kubernetes {result.kubernetes} and Cilium {result.cilium}"
            for result in self.cilium.values()
        }
        return "\n\n".join(
            [
                self.table(),
                "\n".join(selected),
                self.cilium_table(),
                f"Not supported: {WITHOUT_EFFECT}",
                f"The test beds had {'; '.join(sorted(beds))}.",
            ]
        )

    def table(self) -> str:
        """Return the matrix as a table. Backends with equal cells on a kind of node share a row."""
        columns = [(target, cni) for target in TARGETS for cni in CNIS]
        rows: dict[tuple[str, ...], list[str]] = {}
        for proxy, name in PROXIES.items():
            for backend in BACKENDS:
                cells = (Cell(proxy=proxy, cni=cni, backend=backend, target=target) for target, cni in columns)
                texts = [self.cell_status(cell) for cell in cells]
                rows.setdefault((name, *texts), []).append(f"`{backend}`")
        heads = ["kube-proxy", "backend", *(f"to {target}, {CNIS[cni]}" for target, cni in columns)]
        return _table(heads, *([name, ", ".join(backends), *texts] for (name, *texts), backends in rows.items()))

    def cilium_table(self) -> str:
        """Return the table of the backends for each host routing of Cilium."""
        return _table(
            ["host routing of Cilium", "backend", "status"],
            ["legacy", "`auto`", self.cilium_status("legacy")],
            ["legacy", OTHERS, "expected"],
            ["eBPF", f"`auto`, {OTHERS}", "not supported"],
            ["eBPF", "`cilium`", self.cilium_status("ebpf")],
        )

    def cell_status(self, cell: Cell) -> str:
        """Return the text of a cell, which is `expected` without a result.

        A cell of `auto` is `not selected` if a run on such nodes selected the other target.
        """
        if (result := self.cells.get(cell)) is not None:
            return result.status(result.checks, CHECKS)
        others = (msgspec.structs.replace(cell, target=target) for target in TARGETS)
        return "not selected" if cell.backend == "auto" and any(cell in self.cells for cell in others) else "expected"

    def cilium_status(self, routing: Routing) -> str:
        """Return the text of a host routing. A test that is newer than the recorded run counts as failed."""
        if (result := self.cilium.get(routing)) is None:
            return "expected"
        return result.status(result.tests, names_of_tests(routing))


def circumstances() -> dict[str, Any]:
    """Return the fields of a run on this machine, with the images of this checkout."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": oci.commit_of(IMAGES / "nmi.tar"),
        "kernel": platform.release().partition("-")[0],
        "kubernetes": up.VERSION,
    }


def names_of_tests(routing: Routing) -> list[str]:
    """Return the names of the tests for a host routing of Cilium."""
    return re.findall(r"^def (test_\w+)", MODULES[routing].read_text(), re.MULTILINE)


def _table(heads: Sequence[str], *rows: Sequence[str]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def uncommitted() -> str:
    """Return the changed files of SOURCES, as git lists them; empty if all are committed."""
    command = ["git", "status", "--porcelain", "--", *SOURCES]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main(folder: Path = BUILD, kept: Path = HERE, page: Path = PAGE) -> None:
    """Add the results of the last runs, if there are any, and write the page.

    Exit with a message if the sources have changes that no commit contains.
    """
    new, results = Results(folder), Results(kept)
    if (new.cells or new.cilium) and (changes := uncommitted()):
        sys.exit(f"the results cannot name a commit, because these changes are in none; commit them:\n{changes}")
    results.cells |= new.cells
    results.cilium |= new.cilium
    results.save()
    put(page, MAKER, results.page())
    for name in (CELLS, CILIUM):
        (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
