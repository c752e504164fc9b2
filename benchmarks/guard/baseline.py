"""The committed counts, the environments that they are valid for, and their comparison with new ones.

A baseline is valid for the environment that it was written in. The cost of the data plane's code depends on the
compilers; the cost of the whole process also depends on Python's build and libraries. In another environment the guard
uses the most similar baseline with a wider bound.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

BASELINE: Final = Path(__file__).with_name("baseline.json")
WITHIN: Final = 0.03
"""The bound in the baseline's environment. Repeated counts agree within 0.3 %."""
ELSEWHERE: Final = 0.25
"""The bound elsewhere. CPython 3.13 instead of 3.11 changes up to 5 % in the project's code and 16 % in total."""
RENEW: Final = (
    "If this is intended, `python -m benchmarks.guard write` updates the baseline; commit it with the change."
)
SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Environment:
    """What the counts depend on, apart from the project's code."""

    machine: str
    compiler: str
    """The data plane's C compiler with its major version."""
    cython: str
    python: str
    """The first two parts of the version."""
    build: str
    """The version and compiler of Python, libc and uvloop."""

    def same_native(self, other: "Environment") -> bool:
        """Return whether the data plane has the same machine code in both."""
        return (self.machine, self.compiler, self.cython, self.python) == (
            other.machine,
            other.compiler,
            other.cython,
            other.python,
        )

    def likeness(self, other: "Environment") -> int:
        """Return the degree of similarity; machine and Python count most."""
        return (
            8 * (self.machine == other.machine)
            + 4 * (self.python == other.python)
            + 2 * (self.compiler == other.compiler)
            + (self.cython == other.cython)
        )


def current_environment() -> Environment:
    """Return the environment. Raises CalledProcessError if the compiler does not print its version."""
    compiler = os.environ.get("CC", "cc")
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    macros = subprocess.run([compiler, "-dM", "-E", "-"], input="", capture_output=True, text=True, check=True).stdout
    name = "clang" if "__clang__" in macros else "gcc"
    libc = " ".join(platform.libc_ver())
    return Environment(
        machine=platform.machine(),
        compiler=f"{name} {version.partition('.')[0].strip()}",
        cython=".".join(importlib.metadata.version("cython").split(".")[:2]),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        build=f"{platform.python_version()} {platform.python_compiler()}, {libc}, "
        f"uvloop {importlib.metadata.version('uvloop')}",
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of one batch, per request."""

    instructions: float
    """Instructions of the whole process in user space while it served requests."""
    native: float
    """Instructions in the data plane's objects."""
    allocations: float
    system_calls: Mapping[str, float]
    functions: Mapping[str, float]
    """Instructions of the most expensive functions, by `object:name`."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Counts and the environment that they are valid for."""

    environment: Environment
    batches: Mapping[str, Counts]


def read(path: Path = BASELINE) -> list[Baseline]:
    """Return the baselines of all environments."""
    return msgspec.json.decode(path.read_bytes(), type=list[Baseline])


def write(baselines: list[Baseline], path: Path = BASELINE) -> None:
    """Write all baselines, with rounded numbers, so that a new baseline differs only where the cost has changed."""
    rounded = msgspec.to_builtins(baselines)
    for entry in rounded:
        for counts in entry["batches"].values():
            for name in ("instructions", "native", "allocations"):
                counts[name] = round(counts[name], 3)
            for table in ("system_calls", "functions"):
                counts[table] = {key: round(value, 3) for key, value in counts[table].items()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=1) + b"\n")


def nearest(baselines: list[Baseline], environment: Environment) -> Baseline:
    """Return the baseline of the same environment, or of the most similar one."""
    return max(
        baselines,
        key=lambda baseline: (baseline.environment == environment, baseline.environment.likeness(environment)),
    )


def deviations(base: Baseline, environment: Environment, counts: Mapping[str, Counts]) -> list[str]:
    """Return the counts that are out of bounds, each as lines with the amount and the functions."""
    same = base.environment == environment
    same_native = base.environment.same_native(environment)
    whole, native = WITHIN if same else ELSEWHERE, WITHIN if same_native else ELSEWHERE
    lines: list[str] = []
    for batch in sorted(base.batches.keys() | counts.keys()):
        if batch not in base.batches or batch not in counts:
            lines.append(f"{batch}: only {'counted' if batch in counts else 'in the baseline'}.")
            continue
        was, now = base.batches[batch], counts[batch]
        for what, before, after, bound in (
            ("instructions a request", was.instructions, now.instructions, whole),
            ("instructions a request in _native", was.native, now.native, native),
        ):
            if abs(after - before) > bound * before:
                where = differences(was.functions, now.functions)
                lines.append(f"{batch}: {change(before, after)} {what}; at most {bound:.0%} are allowed.\n{where}")
        lines += memory_and_kernel(batch, was, now, exact=same)
    return lines


def memory_and_kernel(batch: str, was: Counts, now: Counts, *, exact: bool) -> list[str]:
    """Return changed numbers of allocations and system calls. In another environment only an increase is reported."""
    lines = []
    allowed = was.allocations * (WITHIN if exact else ELSEWHERE)
    if now.allocations > was.allocations + allowed or (exact and now.allocations < was.allocations - allowed):
        lines.append(f"{batch}: {change(was.allocations, now.allocations)} allocations a request.")
    for name in sorted(was.system_calls.keys() | now.system_calls.keys()):
        before, after = was.system_calls.get(name, 0.0), now.system_calls.get(name, 0.0)
        if abs(after - before) > 0.001 and (exact or after > before):
            lines.append(f"{batch}: {change(before, after)} calls of {name} a request.")
    return lines


def message(deviations: list[str], base: Baseline, environment: Environment) -> str:
    """Return the report for a developer."""
    place = "" if base.environment == environment else f"The nearest baseline is of {base.environment}.\n\n"
    return place + "\n\n".join([*deviations, RENEW])


def change(before: float, after: float) -> str:
    """Return a change in the form `5,638.0 -> 6,000.0 (+6.4 %)`."""
    share = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{before:,.2f} -> {after:,.2f}{share}"


def differences(was: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Return the functions that differ most, one per line. A function in neither list spends almost nothing."""
    names = sorted(was.keys() | now.keys(), key=lambda name: -abs(now.get(name, 0.0) - was.get(name, 0.0)))
    lines = [f"  {now.get(name, 0.0) - was.get(name, 0.0):+10,.1f}  {name}" for name in names[:SHOWN]]
    return "Where:\n" + "\n".join(lines)
