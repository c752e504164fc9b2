"""Exhaustive search of a Promela model by spin, with the C compiler, in a directory that the caller owns."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MODEL: Final = Path(__file__).with_name("address_lifecycle.pml")
DEPTH_MAX: Final = 1_000_000
"""Steps of one history. A search that reaches it is not complete, which `Search.complete` shows."""
MEMORY_MIB: Final = 6000
SECONDS_MAX: Final = 1500
_COMPILER_FLAGS: Final = ("-O1", "-w", "-DSAFETY", "-DNOREDUCE", "-DNOFAIR", f"-DMEMLIM={MEMORY_MIB}")
"""Without partial order reduction: every step reads the writes of the others, so there is nothing to reduce."""


@dataclass(frozen=True, slots=True)
class Search:
    """The result of one search."""

    errors: int
    states: int
    complete: bool
    """Whether every reachable state was visited. A search ends at the first error."""
    unreached: tuple[str, ...]
    """Statements that no history executes, apart from the ends of the processes, which run for ever."""
    report: str


def program() -> str:
    """The path of spin. Raises FileNotFoundError."""
    unpacked = ROOT / "build/model/usr/bin/spin"
    found = shutil.which("spin") or (str(unpacked) if unpacked.exists() else None)
    if found is None:
        raise FileNotFoundError("cannot check the model: spin is not installed; run make setup")
    return found


def search(defines: tuple[str, ...], directory: Path) -> Search:
    """Search the model with these macros (`NAME` or `NAME=VALUE`). Raises CalledProcessError and TimeoutExpired."""
    shutil.copy(MODEL, directory / "model.pml")
    _run([program(), "-a", *(f"-D{each}" for each in defines), "model.pml"], directory)
    _run(["cc", *_COMPILER_FLAGS, "-o", "pan", "pan.c"], directory)
    return parsed(_run(["./pan", f"-m{DEPTH_MAX}"], directory))


def trail(defines: tuple[str, ...], directory: Path) -> str:
    """The history that led to the error which `search` has found in *directory*."""
    return _run([program(), "-p", "-g", "-t", *(f"-D{each}" for each in defines), "model.pml"], directory)


def parsed(report: str) -> Search:
    """The figures in *report*, which `pan` printed. Raises ValueError where it has none."""
    errors = re.search(r"errors: (\d+)", report)
    states = re.search(r"^\s*([0-9.e+]+) states, stored", report, re.MULTILINE)
    if errors is None or states is None:
        raise ValueError(f"cannot read the report of the model checker: {report[-500:]!r}")
    limited = any(each in report for each in ("not completed", "depth too small", "out of memory", "memory limit"))
    unreached = re.findall(r"^\s+model\.pml:\d+, state \d+, .*$", report, re.MULTILINE)
    return Search(
        int(errors[1]),
        int(float(states[1])),
        not limited,
        tuple(each.strip() for each in unreached if '"-end-"' not in each),
        report,
    )


def _run(command: list[str], directory: Path) -> str:
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    # pan ends with an error code only if it could not search; spin prints syntax errors and continues.
    if result.returncode != 0:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout, result.stderr)
    return result.stdout
