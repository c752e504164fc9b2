"""Programs that the sandbox runs as separate processes, with their output in a file.

A program never outlives its sandbox: the kernel kills it when the sandbox dies. One that has ended starts again with a
back-off, like a kubelet's.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from podidentity_sandbox.network import ExecutionContext

TAIL_BYTES = 64 << 10  # how much of a program's output is read back
LINE_MAX = 600  # characters of its last line in a message
STOP_SECONDS = 10.0  # time limit of an orderly end before a kill
FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
HEALTHY_SECONDS: Final = 60.0
"""The time after which a program that runs counts as healthy, so that its next end has no longer delay."""
# Found once: setpriv (util-linux) has the kernel kill the program when its parent dies.
_SETPRIV = shutil.which("setpriv")


class ProgramError(Exception):
    """A program did not start or ended too early. The message contains its last line."""


class Program:
    """One process and its log file. `start` creates it; the caller of `start` owns it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], *, context: ExecutionContext, log: Path, environment: Mapping[str, str]
    ) -> "Program":
        """Run *argv* in *context* with *environment* and its output in *log*. Raise ProgramError if it is missing."""
        command = context.command(argv)
        if _SETPRIV:
            command = [_SETPRIV, "--pdeathsig", "KILL", "--", *command]
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**environment, **context.environment},
                    # Ctrl-C is for the sandbox alone, which then stops its programs in order.
                    start_new_session=True,
                )
            except OSError as failure:
                raise ProgramError(f"{name} cannot be started: {failure}") from failure
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.returncode

    def output(self) -> str:
        """Return the end of its output."""
        with self.log.open("rb") as output:
            output.seek(max(0, os.fstat(output.fileno()).st_size - TAIL_BYTES))
            return output.read().decode(errors="replace")

    def last_line(self, without: str = "no output") -> str:
        """Return the end of the last line of its output, or *without* if there is none."""
        return (self.output().strip().splitlines() or [without])[-1][-LINE_MAX:]

    def exit_error(self) -> ProgramError:
        """Return the error with its exit code and last line, in which MIC and NMI state cause and next action."""
        return ProgramError(f"{self.name} ended with code {self.returncode}: {self.last_line()}")

    async def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Do nothing after its end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Send SIGTERM, and SIGKILL after *seconds*. Return its exit code. Do nothing after its end."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self._process.wait()


class Restarts:
    """The delays of one program. *clock* measures seconds and need not advance while the machine is suspended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._delay = 0.0
        self._started = clock()
        self._due: float | None = None

    def ended(self) -> float | None:
        """Record that the program has ended. Return the seconds until its start; None if that is recorded already."""
        if self._due is not None:
            return None
        now = self._clock()
        healthy = now - self._started >= HEALTHY_SECONDS
        self._delay = FIRST_SECONDS if healthy or not self._delay else min(2 * self._delay, LONGEST_SECONDS)
        self._due = now + self._delay
        return self._delay

    def is_due(self) -> bool:
        """Return whether the program must start now."""
        return self._due is not None and self._clock() >= self._due

    def started(self) -> None:
        """Record that the program runs again."""
        self._due, self._started = None, self._clock()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module, run by this interpreter."""
    return [sys.executable, "-m", module, *arguments]
