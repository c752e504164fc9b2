"""Compile the data plane. All directives are here, so that no file can vary them unnoticed.

NATIVE_ANNOTATE=1 writes the coloured HTML; NATIVE_TRACE=1 builds for line coverage (never take timings from it).
NATIVE_ONLY=lane compiles that module alone. PROJECT_URL adds the repository's address to the metadata.
NATIVE_OMIT=1 compiles nothing and needs no C compiler. The wheel is for all machines. podidctl and MIC are
complete in it, and NMI refuses to start.
"""

import os
import shutil

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

TRACE = bool(os.environ.get("NATIVE_TRACE"))
MODULES = (
    *("histogram", "scan", "query", "request_ids", "ready_responses", "index", "redirects", "limits"),
    *("connection_slots", "fair_queue", "disconnects", "connection"),
    *("eviction", "memory", "deadlines", "transfer", "listener", "lane"),
)
OMIT = bool(os.environ.get("NATIVE_OMIT"))
ONLY = os.environ.get("NATIVE_ONLY")
CFLAGS = ["-O0", "-g"] if TRACE else ["-O2", "-g", "-Wall", "-Wsign-compare", "-Wconversion", "-Wno-sign-conversion"]
MACROS: list[tuple[str, str | None]] = (
    [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")] if TRACE else []
)

URL = os.environ.get("PROJECT_URL", "").rstrip("/")

Options.warning_errors = True


class BuildOnlySources(build):
    """A build without the modules that an earlier one left in its folder: a wheel contains all of the folder."""

    def run(self) -> None:  # type: ignore[explicit-override]  # the build has no typing_extensions
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Compilation of `_native`, with the next action if it fails."""

    def run(self) -> None:  # type: ignore[explicit-override]  # the build has no typing_extensions
        try:
            super().run()
        except CompileError as error:
            raise CompileError(
                f"{error}\n\n_native was not compiled: it needs a C compiler and the headers of Python (Debian: gcc, "
                "libc6-dev, python3-dev). podidctl needs no compiled module: set NATIVE_OMIT=1 to install it without."
            ) from error


setup(
    cmdclass={"build": BuildOnlySources, "build_ext": BuildNative},
    options={"build_ext": {"parallel": str(os.cpu_count() or 1)}},  # the C compiler takes nine tenths of the time
    project_urls={"Repository": URL, "Changelog": f"{URL}/blob/main/CHANGELOG.md"} if URL else {},
    ext_modules=[]
    if OMIT
    else cythonize(  # type: ignore[no-untyped-call]  # Cython ships no types for its build part
        [
            Extension(f"_native.{module}", [f"_native/{module}.pyx"], extra_compile_args=CFLAGS, define_macros=MACROS)
            for module in MODULES
            if ONLY in {None, module}
        ],
        force=True,  # cythonize decides by file time, not by directives: a tracing build would reuse the release's C
        annotate=bool(os.environ.get("NATIVE_ANNOTATE")),
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "autotestdict": False,
            "embedsignature": True,
            "embedsignature.format": "python",
            "warn.unused": True,
            "warn.maybe_uninitialized": True,
            "linetrace": TRACE,
        },
    ),
)
