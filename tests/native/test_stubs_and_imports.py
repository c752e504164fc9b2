"""The .pyi files describe the compiled modules, which import no Python module of this project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    *("histogram", "scan", "query", "request_ids", "answers", "index", "redirects", "limits"),
    *("connection_slots", "fair_queue", "disconnects", "connection"),
    *("eviction", "memory", "deadlines", "transfer", "listener", "lane"),
]
SOURCES = sorted([*ROOT.glob("_native/*.pyx"), *ROOT.glob("_native/*.pxd")])
BELOW = {
    "clock": set[str](),
    "sockets": set[str](),
    "histogram": set[str](),
    "scan": set[str](),
    "query": {"scan"},
    "request_ids": set[str](),
    "answers": {"histogram", "clock", "request_ids"},
    "index": {"answers", "query", "scan"},
    "redirects": {"sockets"},
    "limits": {"clock"},
    "connection_slots": set[str](),
    "fair_queue": {"connection_slots"},
    "disconnects": {"clock"},
    "sending": {"sockets"},
    "connection": {
        *("answers", "clock", "index", "query", "redirects", "scan", "sockets"),
        *("connection_slots", "disconnects", "fair_queue", "sending"),
    },
    "eviction": {"connection", "connection_slots", "sockets"},
    "memory": {"clock", "connection", "connection_slots", "sockets"},
    "deadlines": {"clock", "connection"},
    "transfer": {"clock", "connection", "sockets"},
    "listener": {"clock", "limits", "redirects", "sending", "sockets"},
    "lane": {
        *("answers", "clock", "connection", "connection_slots", "deadlines", "disconnects", "eviction", "fair_queue"),
        *("index", "limits", "listener", "memory", "redirects", "sockets", "transfer"),
    },
}
"""The imports inside the package that each module may have."""


def imported(source: Path) -> set[str]:
    """Dotted names of the modules that *source* imports, in Python or in C."""
    pattern = re.compile(r"^(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)
    return {match[1] or match[2] for match in pattern.finditer(source.read_text())}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_imports_go_only_downwards(source: Path) -> None:
    names = imported(source)
    own = {name.partition(".")[2] for name in names if name.partition(".")[0] == "_native"}
    others = {name.partition(".")[0] for name in names} - {"_native", "cython", "libc", "cpython", "posix"}
    assert own <= BELOW[source.stem]
    assert others <= sys.stdlib_module_names


def test_the_import_check_finds_an_upward_import(tmp_path: Path) -> None:
    source = tmp_path / "scan.pyx"
    source.write_text("cimport cython\nfrom nmi.server cimport x\nimport podidentity.azure\n")
    assert imported(source) == {"cython", "nmi.server", "podidentity.azure"}


def test_no_module_is_below_itself() -> None:
    below = {name: set(direct) for name, direct in BELOW.items()}
    for _ in below:
        for names in below.values():
            names.update(*(below[name] for name in tuple(names)))
    assert [name for name, names in below.items() if name in names] == []


def test_every_module_is_compiled_and_has_a_stub() -> None:
    assert {path.stem for path in ROOT.glob("_native/*.pyx")} == set(MODULES)
    assert {path.stem for path in ROOT.glob("_native/*.pyi")} == set(MODULES)


def test_the_stubs_match_the_compiled_modules() -> None:
    allowed = ["--allowlist", "tests/native/stubtest_allowlist.txt"]
    command = [sys.executable, "-m", "mypy.stubtest", *allowed, *(f"_native.{module}" for module in MODULES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
