"""The command `mic`: the one place that reads the process's arguments and environment and decides its exit code.

0 after an ordered stop or --version; 1 when something outside must change first (StartError) or the leadership is
lost; 2 for a command line that cannot be used. Each of the latter is one line on stderr that says what to do.
"""

import os
import sys
from collections.abc import Sequence

from mic.errors import StartError
from mic.settings import Settings, parse
from podidentity.flags import UsageError
from podidentity.kube.lease import LeadershipLost
from podidentity.version import VERSION

EXPECTED = (StartError, LeadershipLost)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code."""
    try:
        settings = parse(sys.argv[1:] if argv is None else argv, os.environ)
        if settings.version:
            sys.stdout.write(f"mic {VERSION}\n")
            return 0
        _run(settings)
    except UsageError as error:
        return _say(error, 2)
    except EXPECTED as error:
        return _say(error, 1)
    except ExceptionGroup as group:  # out of a TaskGroup
        matched, rest = group.split(EXPECTED)
        if matched is None or rest is not None:
            raise
        return _say(_first(matched), 1)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT: what a shell expects of a program that Ctrl-C ended before it handled signals itself
    return 0


def _run(settings: Settings) -> None:
    # The Azure packages take half a second to import: not for --version, nor for a usage error.
    import uvloop  # noqa: PLC0415  see above

    from mic.app import run  # noqa: PLC0415  see above

    uvloop.run(run(settings))


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first error that *group* holds, however deep."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def _say(error: Exception, code: int) -> int:
    line = " ".join(str(error).split())
    sys.stderr.write(f"mic: {line}\n")
    return code
