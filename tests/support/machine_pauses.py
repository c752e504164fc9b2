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
START_SECONDS: Final = 60.0
RECORDING: Final = "recording"
"""The first line of the program."""
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
    return sum(max(0.0, min(each.end, end) - max(each.begin, begin)) for each in pauses)


class Recorder:
    """The program with the process id *pid*, and the pauses that it has written to *log*."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self._log = log

    def pauses(self) -> list[Pause]:
        """Return the pauses so far."""
        lines = self._log.read_text().splitlines(keepends=True)
        return [Pause(*map(float, line.split())) for line in lines[1:] if line.endswith("\n")]

    @property
    def is_recording(self) -> bool:
        return self._log.read_text().startswith(RECORDING)


@contextmanager
def recorded_pauses(least_seconds: float) -> Iterator[Recorder]:
    """Record pauses of at least *least_seconds* in the block."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "pauses"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(SLEEP_SECONDS), str(least_seconds)],
                stdin=subprocess.PIPE,
                stdout=output,
            )
        recorder = Recorder(process.pid, log)
        try:
            until_sync(lambda: recorder.is_recording or process.poll() is not None, "the recording begins")
            assert process.poll() is None, "the program that records pauses has ended"
            yield recorder
        finally:
            process.communicate(timeout=START_SECONDS)
