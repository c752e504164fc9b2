"""Programs that the sandbox runs as processes of their own: started somewhere, their output kept in a file, stopped.

A program never outlives its sandbox: the kernel kills it when the sandbox dies, however that comes about.
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
STOP_SECONDS = 10.0  # what a daemon may take to end in good order before it is killed
# Found once: setpriv (util-linux) has the kernel kill the program when its parent dies.
_SETPRIV = shutil.which("setpriv")


class ProgramError(Exception):
    """A program did not start, or ended too early; the message holds the last lines it said."""


class Program:
    """One process and the file with what it says. Made by `start`; belongs to whoever called that."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], *, context: ExecutionContext, log: Path, environment: Mapping[str, str]
    ) -> "Program":
        """Run *argv* at *place*, its output into *log*. *environment* is all that it gets besides the place's own.

        Raises ProgramError when there is no such program.
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
        """What it has written so far, the end of it."""
        with self.log.open("rb") as output:
            output.seek(max(0, os.fstat(output.fileno()).st_size - TAIL_BYTES))
            return output.read().decode(errors="replace")

    def exit_error(self) -> ProgramError:
        """The error that says with which code it ended and what its last words were."""
        last = " | ".join(self.output().strip().splitlines()[-3:])
        return ProgramError(f"{self.name} ended with code {self.returncode}: {last[-600:] or 'it said nothing'}")

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end, kill it after *seconds*; its exit code. Does nothing when it has ended."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self._process.wait()


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of our own programs, run by this interpreter."""
    return [sys.executable, "-m", module, *arguments]
