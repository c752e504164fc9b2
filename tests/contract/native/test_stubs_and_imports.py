"""The stubs describe the compiled modules, which import no other package, and their docstring names existing tests."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import _native
from tests.support.checkout import ROOT

MODULES = sorted(path.stem for path in ROOT.glob("_native/*.pyx"))
IMPORTS = re.compile(r"^(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)


def imported() -> dict[str, set[str]]:
    """Dotted names of the modules that each module of the package imports, in Python or in C."""
    imports: dict[str, set[str]] = {}
    for source in [*ROOT.glob("_native/*.pyx"), *ROOT.glob("_native/*.pxd")]:
        names = {match[1] or match[2] for match in IMPORTS.finditer(source.read_text())}
        imports.setdefault(source.stem, set()).update(names)
    return imports


def test_the_modules_import_neither_each_other_in_a_cycle_nor_other_packages() -> None:
    names = imported()
    own = {
        module: {name.partition(".")[2] for name in imports if name.startswith("_native.")} - {module}
        for module, imports in names.items()
    }
    assert own["lane"] > {"connection", "index"}, "the imports are found"
    graphlib.TopologicalSorter(own).prepare()  # raises CycleError
    others = {name.partition(".")[0] for imports in names.values() for name in imports}
    assert others - {"_native", "cython", "libc", "cpython", "posix"} <= sys.stdlib_module_names


def test_every_module_is_compiled_and_has_a_stub() -> None:
    assert sorted(path.stem for path in ROOT.glob("_native/*.pyi")) == MODULES


def test_the_stubs_match_the_compiled_modules() -> None:
    allowed = ["--allowlist", "tests/contract/native/stubtest_allowlist.txt"]
    command = [sys.executable, "-m", "mypy.stubtest", *allowed, *(f"_native.{module}" for module in MODULES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


HERE = Path(__file__).parent
TABLE = (_native.__doc__ or "").partition("the tests (in tests/contract/native) that show them:\n\n")[2]
NAMED = [line.strip() for line in TABLE.splitlines() if line.startswith("    ")]


def written_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_table_names_exists(named: str) -> None:
    file, _, test = named.partition("::")
    assert test in written_in(HERE / file)


def test_every_promise_names_a_test() -> None:
    promises = re.findall(r"^  (?! )[^\n]+\n(    \S+::\S+\n)?", TABLE + "\n", re.MULTILINE)
    assert len(promises) > 10
    assert all(promises)
