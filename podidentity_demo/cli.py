"""The command `podidentity-demo`. Only this module reads the process's arguments and environment.

Exit codes: 0 after SIGTERM, or with --once when every step succeeded; 1 with --once when a step failed; 2 for an
invalid command line; 130 after Ctrl-C.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Never

from podidentity_demo.loop import run
from podidentity_demo.settings import parse
from podidentity_demo.steps import Demo


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (by default sys.argv[1:]) and return its exit code."""
    settings = parse(sys.argv[1:] if argv is None else argv, os.environ)
    signal.signal(signal.SIGTERM, _end)  # without a handler the first process of a container ignores it
    # The printed lines contain every error; the libraries' warnings would repeat them.
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        _say(f"starting demo pod {settings.pod}".rstrip())
        return run(
            Demo(settings).steps,
            wait_seconds=settings.wait_seconds,
            once_seconds=settings.once_seconds if settings.once else None,
            say=_say,
        )
    except KeyboardInterrupt:
        return 130


def _end(signum: int, frame: FrameType | None) -> Never:
    del signum, frame
    sys.exit(0)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
