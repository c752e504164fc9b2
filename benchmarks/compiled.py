"""The compiled parts of the suite, built in build/bench when they are older than their sources.

They are compiled like the data plane and can use its .pxd files.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "build" / "bench"
HEADERS: Final = ROOT / ".venv" / "headers" / "usr" / "include"
SHARED: Final = ("-g", "-fPIC", "-shared")


def newer(made: Path, *sources: Path) -> bool:
    """Return whether *made* exists and is not older than any of *sources*."""
    return made.exists() and made.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def compiled(made: Path, sources: Sequence[Path], *flags: str | Path, inputs: Sequence[Path] = ()) -> Path:
    """Compile C *sources*, which include *inputs*, into *made*. Raises FileNotFoundError without a compiler and
    CalledProcessError, which has its errors.
    """
    if not newer(made, *sources, *inputs):
        made.parent.mkdir(parents=True, exist_ok=True)
        draft = made.with_suffix(f".{os.getpid()}-{threading.get_ident()}")  # several may build it concurrently
        command = [os.environ.get("CC", "cc"), "-O2", *flags, *sources, "-o", draft]
        try:
            subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise
        draft.replace(made)
    return made


def library(source: Path) -> Path:
    """Build a shared object from a C file. Raises the errors of `compiled`."""
    return compiled(OUTPUT / f"{source.stem}.so", [source], *SHARED)


def extension(source: Path) -> Path:
    """Build an extension module from a .pyx file. Raises CalledProcessError."""
    made = OUTPUT / f"{source.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not newer(made, source, *(ROOT / "_native").glob("*.pxd")):
        OUTPUT.mkdir(parents=True, exist_ok=True)
        written = OUTPUT / f"{source.stem}.{os.getpid()}.c"
        cython = [sys.executable, "-m", "cython", "-3", "-Werror", "--module-name", source.stem, f"-I{ROOT}"]
        subprocess.run([*cython, source, "-o", written], check=True)
        include = Path(sysconfig.get_path("include"))
        compiled(made, [written], *SHARED, *(f"-I{folder}" for folder in (include, HEADERS / include.name, HEADERS)))
        written.unlink()
    return made


def loaded(source: Path) -> ModuleType:
    """Build a .pyx file and import it."""
    spec = importlib.util.spec_from_file_location(source.stem, extension(source))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
