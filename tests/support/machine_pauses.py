"""Pauses of the machine: times at which a program that only sleeps did not run.

A hypervisor that pauses a virtual machine delays all its programs. A measurement excludes these times, which are no
property of the measured program.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.waiting import until_sync

SLEEP_SECONDS: Final = 0.02
PROGRAM: Final = """
import select, sys, time
sleep, least = float(sys.argv[1]), float(sys.argv[2])
last = time.time()
print("recording", flush=True)
while not select.select([sys.stdin], [], [], sleep)[0]:
    now = time.time()
    if now - last - sleep >= least:
        print(last, now, flush=True)
    last = now
"""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause, in Unix seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def paused_seconds(pauses: Iterable[Pause], begin: float, end: float) -> float:
    """Return the part of the time from *begin* to *end* in which the machine was paused, in seconds."""
    return sum(max(0.0, min(pause.end, end) - max(pause.begin, begin)) for pause in pauses)


@dataclass(frozen=True, slots=True)
class Recorder:
    """The program with the process id *pid*, and its output."""

    pid: int
    log: Path

    def pauses(self) -> list[Pause]:
        """Return the pauses so far."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [Pause(*map(float, line.split())) for line in lines[1:] if line.endswith("\n")]


@contextmanager
def recorded_pauses(least_seconds: float) -> Iterator[Recorder]:
    """Record pauses of at least *least_seconds* in the block."""
    command = [sys.executable, "-c", PROGRAM, str(SLEEP_SECONDS), str(least_seconds)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "pauses"
        with log.open("wb") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output) as process:
            until_sync(lambda: log.stat().st_size > 0, "the recording begins")
            yield Recorder(process.pid, log)
