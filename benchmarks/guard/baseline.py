"""The committed counts, and whether new ones are still within them. Pure but for the two functions that use the file.

A baseline holds for the environment it was made in. What the data plane's own code costs depends on the compilers; what
the whole process costs depends on Python's own build and libraries, too. Elsewhere the nearest baseline is taken with a
wider bound, so the guard tells less there, but never nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

BASELINE: Final = Path(__file__).with_name("baseline.json")
WITHIN: Final = 0.03
"""In the baseline's environment; repeated counts agree within 0.3 %."""
ELSEWHERE: Final = 0.25
"""With CPython 3.13 for 3.11 it is up to 5 % in our own code and 16 % in all."""
RENEW: Final = "If this is meant, `python -m benchmarks.guard write` renews the baseline; commit it with the change."
SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Environment:
    """What counts depend on besides our code."""

    machine: str
    compiler: str
    """C compiler, its major version: of the data plane."""
    cython: str
    python: str
    """Version, its first two parts."""
    build: str
    """Python's own version and compiler, libc and uvloop."""

    def same_native(self, other: "Environment") -> bool:
        """Whether the data plane's own code is the same machine code in both."""
        return (self.machine, self.compiler, self.cython, self.python) == (
            other.machine,
            other.compiler,
            other.cython,
            other.python,
        )

    def likeness(self, other: "Environment") -> int:
        """How much of it is the same; machine and Python count most."""
        return (
            8 * (self.machine == other.machine)
            + 4 * (self.python == other.python)
            + 2 * (self.compiler == other.compiler)
            + (self.cython == other.cython)
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one batch, per request."""

    instructions: float
    """In user space, of the whole process while it served."""
    native: float
    """Those inside the data plane's own objects."""
    allocations: float
    system_calls: Mapping[str, float]
    functions: Mapping[str, float]
    """Instructions of those that spend most, by `object:name`."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Counts and what they hold for."""

    environment: Environment
    batches: Mapping[str, Counts]


def read(path: Path = BASELINE) -> list[Baseline]:
    """Every environment's."""
    return msgspec.json.decode(path.read_bytes(), type=list[Baseline])


def write(baselines: list[Baseline], path: Path = BASELINE) -> None:
    """Numbers rounded to what is of use, so that a new baseline differs where something has changed."""
    rounded = msgspec.to_builtins(baselines)
    for each in rounded:
        for counts in each["batches"].values():
            for name in ("instructions", "native", "allocations"):
                counts[name] = round(counts[name], 3)
            for table in ("system_calls", "functions"):
                counts[table] = {key: round(value, 3) for key, value in counts[table].items()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=1) + b"\n")


def nearest(baselines: list[Baseline], environment: Environment) -> Baseline:
    """The same environment's, or the most alike."""
    return max(baselines, key=lambda each: (each.environment == environment, each.environment.likeness(environment)))


def complaints(base: Baseline, environment: Environment, found: Mapping[str, Counts]) -> list[str]:
    """What is not as it was, each in some lines that say by how much and where; nothing if all is within bounds."""
    same = base.environment == environment
    same_native = base.environment.same_native(environment)
    whole, native = WITHIN if same else ELSEWHERE, WITHIN if same_native else ELSEWHERE
    told: list[str] = []
    for batch in sorted(base.batches.keys() | found.keys()):
        if batch not in base.batches or batch not in found:
            told.append(f"{batch}: only {'counted' if batch in found else 'in the baseline'}.")
            continue
        was, now = base.batches[batch], found[batch]
        for what, before, after, bound in (
            ("instructions a request", was.instructions, now.instructions, whole),
            ("instructions a request in _native", was.native, now.native, native),
        ):
            if abs(after - before) > bound * before:
                where = differences(was.functions, now.functions)
                told.append(f"{batch}: {change(before, after)} {what}; at most {bound:.0%} are allowed.\n{where}")
        told += memory_and_kernel(batch, was, now, exact=same)
    return told


def memory_and_kernel(batch: str, was: Counts, now: Counts, *, exact: bool) -> list[str]:
    """Where allocations or system calls are not as they were. Elsewhere only more of them is a complaint."""
    told = []
    allowed = was.allocations * (WITHIN if exact else ELSEWHERE)
    if now.allocations > was.allocations + allowed or (exact and now.allocations < was.allocations - allowed):
        told.append(f"{batch}: {change(was.allocations, now.allocations)} allocations a request.")
    for name in sorted(was.system_calls.keys() | now.system_calls.keys()):
        before, after = was.system_calls.get(name, 0.0), now.system_calls.get(name, 0.0)
        if abs(after - before) > 0.001 and (exact or after > before):
            told.append(f"{batch}: {change(before, after)} calls of {name} a request.")
    return told


def message(told: list[str], base: Baseline, environment: Environment) -> str:
    """What a developer reads."""
    place = "" if base.environment == environment else f"The nearest baseline is of {base.environment}.\n\n"
    return place + "\n\n".join([*told, RENEW])


def change(before: float, after: float) -> str:
    """`5,638.0 -> 6,000.0 (+6.4 %)`."""
    share = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{before:,.2f} -> {after:,.2f}{share}"


def differences(was: Mapping[str, float], now: Mapping[str, float]) -> str:
    """The functions that differ most, a line each. One that is in neither list spends next to nothing."""
    names = sorted(was.keys() | now.keys(), key=lambda name: -abs(now.get(name, 0.0) - was.get(name, 0.0)))
    lines = [f"  {now.get(name, 0.0) - was.get(name, 0.0):+10,.1f}  {name}" for name in names[:SHOWN]]
    return "Where:\n" + "\n".join(lines)
