"""The .pyi files describe the compiled modules, which import no Python module of this project."""

import graphlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in ROOT.glob("_native/*.pyx"))
IMPORTS = re.compile(r"^(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)


def imported() -> dict[str, set[str]]:
    """Dotted names of the modules that each module of the package imports, in Python or in C."""
    found: dict[str, set[str]] = {}
    for source in [*ROOT.glob("_native/*.pyx"), *ROOT.glob("_native/*.pxd")]:
        names = {match[1] or match[2] for match in IMPORTS.finditer(source.read_text())}
        found.setdefault(source.stem, set()).update(names)
    return found


def test_the_modules_import_neither_each_other_in_a_cycle_nor_other_packages() -> None:
    names = imported()
    own = {
        module: {name.partition(".")[2] for name in found if name.startswith("_native.")} - {module}
        for module, found in names.items()
    }
    assert own["lane"] > {"connection", "index"}, "the imports are found"
    graphlib.TopologicalSorter(own).prepare()  # raises CycleError
    others = {name.partition(".")[0] for found in names.values() for name in found}
    assert others - {"_native", "cython", "libc", "cpython", "posix"} <= sys.stdlib_module_names


def test_every_module_is_compiled_and_has_a_stub() -> None:
    assert sorted(path.stem for path in ROOT.glob("_native/*.pyi")) == MODULES


def test_the_stubs_match_the_compiled_modules() -> None:
    allowed = ["--allowlist", "tests/native/stubtest_allowlist.txt"]
    command = [sys.executable, "-m", "mypy.stubtest", *allowed, *(f"_native.{module}" for module in MODULES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
