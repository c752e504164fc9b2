"""Compilation of the data plane into build/fuzz with gcc's sanitizers and with coverage for libFuzzer.

`python tests/nightly/fuzz/build.py`. It uses the project's setup.py, so it includes every extension module that is
added there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
OUTPUT = ROOT / "build" / "fuzz"
SANITIZED = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
COVERED = "-fsanitize-coverage=trace-pc,trace-cmp"
EXACT = """
from setuptools import Extension, setup
from Cython.Build import cythonize
setup(ext_modules=cythonize([Extension("exact", ["exact.pyx"])], language_level=3))
"""


def build() -> None:
    """Rebuild OUTPUT. Raise CalledProcessError; the compiler's messages are on stderr."""
    for left in (OUTPUT / "_native", OUTPUT / "build"):
        shutil.rmtree(left, ignore_errors=True)
    (OUTPUT / "_native").mkdir(parents=True)
    for source in (ROOT / "_native").iterdir():
        if source.suffix in {".py", ".pyx", ".pxd"}:
            shutil.copy(source, OUTPUT / "_native")
    for source in (ROOT / "setup.py", HERE / "exact.pyx"):
        shutil.copy(source, OUTPUT)
    (OUTPUT / "setup_exact.py").write_text(EXACT)
    tell = OUTPUT / "coverage.o"
    subprocess.run(["gcc", "-O2", "-fPIC", "-Wall", "-c", HERE / "coverage.c", "-o", tell], check=True)
    # Nothing is linked with gcc's own sanitizer: atheris's sanitizer is preloaded before all other libraries.
    compiling = {"CC": f"gcc {SANITIZED} {COVERED}", "LDSHARED": f"gcc -shared {tell}"}
    environment = {**os.environ, **compiling}
    for script in ("setup.py", "setup_exact.py"):
        command = [sys.executable, script, "-q", "build_ext", "--inplace"]
        subprocess.run(command, cwd=OUTPUT, env=environment, check=True)


if __name__ == "__main__":
    build()
