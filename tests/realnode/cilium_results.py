"""The result of the newest run of each module of `on_cilium/`, and the table of the backends on nodes with Cilium.

`on_cilium/conftest.py` writes the results of a run to build/node/cilium.json. `python -m tests.realnode.matrix` adds
them to cilium.json of this folder, which is a part of the repository.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tests.realnode.cilium_programs import Routing
from tests.realnode.programs import BUILD, HERE
from tests.recorded import one_per_line

NEW_RESULTS: Final = BUILD / "cilium.json"
RESULTS: Final = HERE / "cilium.json"
MODULES: Final[Mapping[Routing, Path]] = {
    routing: HERE / "on_cilium" / f"test_{routing}_host_routing.py" for routing in ("legacy", "ebpf")
}
"""The tests for each host routing of Cilium."""
ROUTINGS: Final[Mapping[Routing, str]] = {"legacy": "legacy", "ebpf": "eBPF"}
"""The names of the host routings in the table."""
OTHERS: Final = "`iptables-nft`, `iptables-legacy`, `nftables`"
WITHOUT_EFFECT: Final = "eBPF host routing bypasses netfilter, so that rules have no effect; NMI is then not Ready."


class CiliumResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the tests for one host routing in one run."""

    routing: Routing
    date: str
    commit: str
    """The commit of the images."""
    kernel: str
    kubernetes: str
    cilium: str
    tests: dict[str, bool]
    """Whether each test that ran has passed, by the name of its function."""


Results = Mapping[Routing, CiliumResult]


def read(file: Path) -> dict[Routing, CiliumResult]:
    """Return the results in a file by their host routing; none if it is missing."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[CiliumResult])
    except FileNotFoundError:
        return {}
    return {each.routing: each for each in found}


def add(file: Path, results: Iterable[CiliumResult]) -> None:
    """Replace the results of these host routings in a file."""
    merged = {**read(file), **{each.routing: each for each in results}}
    ordered = [merged[routing] for routing in MODULES if routing in merged]
    file.write_bytes(one_per_line(ordered))


def names_of_tests(module: Path) -> set[str]:
    """Return the names of the test functions of a module, which is not imported."""
    tree = ast.parse(module.read_text())
    return {each.name for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")}


def status(results: Results, routing: Routing, *, details: bool) -> str:
    """Return `tested`, `fails` or `expected` for a host routing; *details* adds date and commit.

    A test that is newer than the recorded run counts as failed.
    """
    result = results.get(routing)
    if result is None:
        return "expected"
    failed = sorted(name for name in names_of_tests(MODULES[routing]) if not result.tests.get(name, False))
    word = f"fails ({', '.join(failed)})" if failed else "tested"
    return f"{word} {result.date} {result.commit}" if details else word


def table(results: Results, *, details: bool) -> str:
    """Return the table of the backends for each host routing of Cilium."""
    rows: list[tuple[Routing, str, str]] = [
        ("legacy", "`auto`", status(results, "legacy", details=details)),
        ("legacy", OTHERS, "expected"),
        ("ebpf", f"`auto`, {OTHERS}", "not supported"),
        ("ebpf", "`cilium`", status(results, "ebpf", details=details)),
    ]
    lines = [f"| {ROUTINGS[routing]} | {backends} | {word} |" for routing, backends, word in rows]
    return "\n".join(("| host routing of Cilium | backend | status |", "| --- | --- | --- |", *lines))
