"""The command `mic`: the one place that reads the process's arguments and environment.

Its exit codes are those of `podidentity.exits`.
"""

import os
import sys
from collections.abc import Sequence

from mic.settings import parse
from podidentity.exits import StartError, ended
from podidentity.kube.lease import LeadershipLost
from podidentity.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code; 1 also for a lost leadership."""
    return ended("mic", lambda: _run(sys.argv[1:] if argv is None else argv), expected=(StartError, LeadershipLost))


def _run(argv: Sequence[str]) -> None:
    settings = parse(argv, os.environ)
    if settings.version:
        sys.stdout.write(f"mic {VERSION}\n")
        return
    # The Azure packages take half a second to import: not for --version, nor for a usage error.
    import uvloop  # noqa: PLC0415  see above

    from mic.app import run  # noqa: PLC0415  see above

    uvloop.run(run(settings))
