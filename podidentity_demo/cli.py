"""The command `podidentity-demo`: the one place that reads the process's arguments and environment.

Exit codes: 0 when it was told to end (SIGTERM), or with --once when everything worked; 1 with --once when it did not;
2 for a command line that cannot be used; 130 for Ctrl-C.
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
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code."""
    settings = parse(sys.argv[1:] if argv is None else argv, os.environ)
    signal.signal(signal.SIGTERM, _end)  # the first process of a container would ignore it
    # The lines tell all; the libraries' own warnings would say it twice, and differently.
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
