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


def wait_for(condition: Callable[[], object], seconds: float, failure: str) -> None:
    """Return when *condition* returns a true value. Raise BedError with *failure* after *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BedError(f"{failure} within {seconds:g} s")
        time.sleep(POLL_SECONDS)


class Process:
    """One program, with its output appended to *log*. *command* ends with a wrapper that stays as its parent: nsenter
    or unshare."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the program itself. Raise BedError if it ended."""
        wrapper = self._process.pid
        children = Path(f"/proc/{wrapper}/task/{wrapper}/children")
        wait_for(
            lambda: self._process.poll() is not None or children.read_text(), STOP_SECONDS, f"no child; see {self.log}:"
        )
        if self._process.poll() is None and (pids := children.read_text().split()):
            return int(pids[0])
        raise BedError(f"the program ended; see {self.log}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the program by this signal, after STOP_SECONDS by SIGKILL, and wait for it."""
        for signal_number in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, BedError):
                os.kill(self.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
                return
        self._process.kill()
        self._process.wait(STOP_SECONDS)
