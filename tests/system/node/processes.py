"""Processes of a test bed. Each is ended by its process id, and by the kernel when the test bed's process is killed."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

STOP_SECONDS: Final = 10
POLL_SECONDS: Final = 0.05
WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL")
"""Prefix of a command that the kernel kills when the thread that started it ends. Start it in the main thread."""


class BedError(Exception):
    """The test bed cannot be made, or a part of it failed. The message names the log to read."""


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process; empty if it has none or does not exist."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for(condition: Callable[[], object], seconds: float, failure: str) -> None:
    """Return when *condition* returns a true value. Raise BedError with *failure* after *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BedError(f"{failure} within {seconds:g} s")
        time.sleep(POLL_SECONDS)


class Process:
    """One program, started by *command*, with its output appended to *log*.

    *forks* is the number of wrappers of the command that stay as parents of the program: `nsenter --pid` is one.
    """

    def __init__(self, command: Sequence[str], log: Path, *, forks: int = 0) -> None:
        self.log = log
        self._forks = forks
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the program itself. Raise BedError if it ended."""
        pid = self._process.pid
        for _ in range(self._forks):
            pid = self._child(pid)
        return pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program. Do nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError, BedError):
            os.kill(self.pid, number)

    def _child(self, parent: int) -> int:
        wait_for(lambda: children(parent) or not self.running, STOP_SECONDS, f"no child of {parent}; see {self.log}:")
        found = children(parent)
        if not found:
            raise BedError(f"the program ended; see {self.log}")
        return found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the program by this signal, after STOP_SECONDS by SIGKILL, and wait for it."""
        self.send(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.kill()
            self._process.wait(STOP_SECONDS)
