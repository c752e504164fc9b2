"""The environment of this process in the form that a baseline uses."""

import importlib.metadata
import os
import platform
import subprocess
import sys

from benchmarks.guard.baseline import Environment


def current_environment() -> Environment:
    """Return the environment. Raises CalledProcessError if the compiler does not print its version."""
    compiler = os.environ.get("CC", "cc")
    said = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    macros = subprocess.run([compiler, "-dM", "-E", "-"], input="", capture_output=True, text=True, check=True).stdout
    name = "clang" if "__clang__" in macros else "gcc"
    libc = " ".join(platform.libc_ver())
    return Environment(
        machine=platform.machine(),
        compiler=f"{name} {said.partition('.')[0].strip()}",
        cython=".".join(importlib.metadata.version("cython").split(".")[:2]),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        build=f"{platform.python_version()} {platform.python_compiler()}, {libc}, "
        f"uvloop {importlib.metadata.version('uvloop')}",
    )
