"""Programs that the sandbox runs as separate processes, with their output in a file.

A program never outlives its sandbox: the kernel kills it when the sandbox dies.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from podidentity_sandbox.network import ExecutionContext

TAIL_BYTES = 64 << 10  # how much of a program's output is read back
LINE_MAX = 600  # characters of its last line in a message
STOP_SECONDS = 10.0  # time limit of an orderly end before a kill
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
        """Run *argv* in *context* with its output in *log*. Its environment is *environment* and the context's.

        Raise ProgramError if there is no such program.
        """
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

    def exit_error(self) -> ProgramError:
        """Return the error with its exit code and last line, in which MIC and NMI state cause and next action."""
        last = (self.output().strip().splitlines() or ["no output"])[-1]
        return ProgramError(f"{self.name} ended with code {self.returncode}: {last[-LINE_MAX:]}")

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


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module, run by this interpreter."""
    return [sys.executable, "-m", module, *arguments]
