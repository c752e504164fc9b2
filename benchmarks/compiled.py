"""The compiled parts of the suite, built in build/bench when they are older than their sources.

They are compiled like the data plane and can use its .pxd files.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "build" / "bench"
HEADERS: Final = ROOT / ".venv" / "headers" / "usr" / "include"
CFLAGS: Final = ("-O2", "-g", "-fPIC", "-shared")


def newer(made: Path, *sources: Path) -> bool:
    """Return whether *made* exists and is not older than any of *sources*."""
    return made.exists() and made.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def compiler() -> list[str]:
    """Return the C compiler's command with the flags for a shared object."""
    return [os.environ.get("CC", "cc"), *CFLAGS]


def library(source: Path) -> Path:
    """Build a shared object from a C file. Raises CalledProcessError with the compiler's output on stderr."""
    made = OUTPUT / f"{source.stem}.so"
    if not newer(made, source):
        OUTPUT.mkdir(parents=True, exist_ok=True)
        draft = made.with_suffix(f".{os.getpid()}")
        subprocess.run([*compiler(), source, "-o", draft], check=True)
        draft.replace(made)
    return made


def extension(source: Path) -> Path:
    """Build an extension module from a .pyx file. Raises CalledProcessError with the compiler's output on stderr."""
    made = OUTPUT / f"{source.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not newer(made, source, *(ROOT / "_native").glob("*.pxd")):
        OUTPUT.mkdir(parents=True, exist_ok=True)
        written = OUTPUT / f"{source.stem}.{os.getpid()}.c"
        draft = made.with_suffix(f".{os.getpid()}")
        cython = [sys.executable, "-m", "cython", "-3", "-Werror", "--module-name", source.stem, f"-I{ROOT}"]
        subprocess.run([*cython, source, "-o", written], check=True)
        include = Path(sysconfig.get_path("include"))
        where = [f"-I{each}" for each in (include, HEADERS / include.name, HEADERS)]
        subprocess.run([*compiler(), *where, written, "-o", draft], check=True)
        written.unlink()
        draft.replace(made)
    return made


def loaded(source: Path) -> ModuleType:
    """Build a .pyx file and import it."""
    spec = importlib.util.spec_from_file_location(source.stem, extension(source))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
