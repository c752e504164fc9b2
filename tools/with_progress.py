"""Run a command whose output would be too long to read, and print how far it is.

usage: with_progress.py TEXT TOTAL PATTERN COMMAND...

Each line of the command's output that PATTERN matches is a step; PATTERN's group names the subject of the step. On a
terminal one line is rewritten, elsewhere a line is printed every few seconds. If the command fails, its whole output is
printed. The exit code is the command's. It uses the standard library only, because it installs everything else.
"""

import re
import subprocess
import sys
import time
from typing import Final

PAUSE_SECONDS: Final = 5.0


class Progress:
    """The printed state of a command. *total* is the expected number of steps."""

    def __init__(self, text: str, total: int) -> None:
        self._text = text
        self._total = total
        self._done = 0
        self._printed = time.monotonic()

    def step(self, subject: str) -> None:
        """Count a step that works on *subject*."""
        self._done += 1
        state = f"{self._text}: {min(self._done, self._total)} of {self._total} {subject}"
        if sys.stderr.isatty():
            _write(f"\r\033[K{state}")
        elif time.monotonic() - self._printed > PAUSE_SECONDS:
            self._printed = time.monotonic()
            _write(f"{state}\n")

    def end(self) -> None:
        """Remove the line from a terminal."""
        if sys.stderr.isatty():
            _write("\r\033[K")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def main(text: str, total: str, pattern: str, *command: str) -> int:
    """Run *command* and return its exit code."""
    began = time.monotonic()
    progress = Progress(text, int(total))
    output = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            output.append(line)
            if step := re.search(pattern, line):
                progress.step(step[1])
    progress.end()
    failed = process.returncode != 0
    _write("".join(output) if failed else f"{text}: done in {time.monotonic() - began:.0f} s\n")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
