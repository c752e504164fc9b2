"""The measured commit, this machine, and the load of its cores and of some processes."""

import gzip
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.results import Machine

ROOT: Final = Path(__file__).parents[1]
PROC: Final = Path("/proc")
SYS: Final = Path("/sys")
BOOT: Final = Path("/boot")
TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Clock ticks per second in /proc."""
USER, NICE, SYSTEM, IRQ, SOFTIRQ, STEAL = 0, 1, 2, 5, 6, 7
"""Columns of a core in /proc/stat (proc(5)). The first two include the time of guests; idle and iowait are no load."""


class Cores:
    """Counters since the start of the machine or the process. Use the difference of two readings."""

    def __init__(self, proc: Path = PROC, boot: Path = BOOT) -> None:
        self._proc = proc
        working = (USER, NICE, SYSTEM, STEAL)
        self._busy = working if interrupts_apart(proc, boot) else (*working, IRQ, SOFTIRQ)

    def busy(self, core: int) -> float:
        """Return the seconds that the core was busy, including those that a hypervisor took from it.

        They include interrupts if the kernel adds their time to the interrupted process; `used` includes them then too.
        Raises ValueError if the core does not exist.
        """
        columns = self._core(core)
        return sum(columns[column] for column in self._busy) / TICKS

    def stolen(self, core: int) -> float:
        """Return the seconds that a hypervisor took from the core."""
        return self._core(core)[STEAL] / TICKS

    def _core(self, core: int) -> list[int]:
        for line in (self._proc / "stat").read_text().splitlines():
            name, *columns = line.split()
            if name == f"cpu{core}":
                return [int(column) for column in columns]
        raise ValueError(f"core {core} does not exist: the suite needs two cores that are online")

    def used(self, pids: Sequence[int]) -> float:
        """Return CPU seconds of the processes' threads with ns resolution.

        Raises FileNotFoundError for an ended process.
        """
        return sum(self._nanoseconds(self._proc / str(pid) / "task") for pid in pids) / 1e9

    def _nanoseconds(self, tasks: Path) -> int:
        total = 0
        for task in tasks.iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread ended after the folder was read
        return total

    def split(self, pids: Sequence[int]) -> tuple[float, float]:
        """Return the processes' seconds in user and in system mode, measured in ticks."""
        user = system = 0
        for pid in pids:
            # The name in parentheses may contain any characters.
            fields = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            system += int(fields[12])
        return user / TICKS, system / TICKS


def interrupts_apart(proc: Path = PROC, boot: Path = BOOT) -> bool:
    """Return whether the kernel counts interrupts apart from processes (CONFIG_IRQ_TIME_ACCOUNTING)."""
    for file, opened in ((proc / "config.gz", gzip.open), (boot / f"config-{platform.release()}", open)):
        if file.exists():
            with opened(file, "rt") as lines:
                return "CONFIG_IRQ_TIME_ACCOUNTING=y\n" in lines
    return False


def facts(nginx: Path | None = None, proc: Path = PROC, system: Path = SYS) -> Machine:
    """Return the state of this machine; *nginx* is the program for comparison."""
    cpu = dict(_fields(proc / "cpuinfo"))
    return Machine(
        cpu=cpu.get("model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release().partition("-")[0],
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() / 2**30),
        virtual="hypervisor" in cpu.get("flags", "").split(),
        governor=_line_of(system / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo=_turbo(system / "devices/system/cpu"),
        load=round(float((proc / "loadavg").read_text().split()[0]), 2),
        versions=versions(nginx),
    )


def _fields(file: Path) -> list[tuple[str, str]]:
    pairs = [line.partition(":") for line in file.read_text().splitlines()]
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _line_of(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _turbo(cpu: Path) -> bool | None:
    """Intel's driver reports that turbo is off, the others report that it is on."""
    if (off := _line_of(cpu / "intel_pstate/no_turbo")) is not None:
        return off == "0"
    boost = _line_of(cpu / "cpufreq/boost")
    return None if boost is None else boost == "1"


def versions(nginx: Path | None = None) -> dict[str, str]:
    """Return the versions of installed programs that the figures depend on."""
    packages = {name: version(name) for name in ("uvloop", "httptools", "Cython", "aiohttp")}
    compiler = shutil.which("gcc")
    programs = {
        "nginx": nginx and _output_of(nginx, "-v"),
        "gcc": compiler and _output_of(compiler, "-dumpfullversion"),
    }
    installed = {name: version.rpartition("/")[2] for name, version in programs.items() if version}
    return {"Python": platform.python_version()} | packages | installed


def _output_of(program: Path | str, flag: str) -> str:
    output = subprocess.run([program, flag], check=True, capture_output=True, text=True, timeout=10)
    return (output.stdout or output.stderr).strip()


def commit(root: Path = ROOT) -> tuple[str, bool]:
    """Return ten digits of the measured commit, and whether files differ from it."""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], check=True, capture_output=True, text=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], check=True, capture_output=True, text=True).stdout
    return head.strip(), bool(changed)
