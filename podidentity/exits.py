"""Exit of a program's command: the errors that print one line on stderr, and the exit codes.

0 after an orderly stop; 1 if something outside of the program must change; 2 for an unusable command line; 130 for
Ctrl-C. Any other error is a defect and keeps its traceback. Only a program's `cli` uses this module.
"""

import sys
from collections.abc import Callable

from podidentity.flags import UsageError


class StartError(Exception):
    """A program cannot start or continue until the operator changes something outside of it.

    The text is one line with the cause and the next action. Raise it `from` the cause.
    """


def ended(program: str, work: Callable[[], None], *, expected: tuple[type[Exception], ...] = (StartError,)) -> int:
    """Run *work* and return the exit code. An error of *expected*, alone or from a TaskGroup, gives 1."""
    try:
        work()
    except UsageError as error:
        return _say(program, error, 2)
    except expected as error:
        return _say(program, error, 1)
    except ExceptionGroup as group:  # from a TaskGroup
        matched, rest = group.split(expected)
        if matched is None or rest is not None:
            raise
        return _say(program, _first(matched), 1)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells expect, for Ctrl-C before the program handles signals
    return 0


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of *group*, at any depth."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def _say(program: str, error: Exception, code: int) -> int:
    line = " ".join(str(error).split())
    sys.stderr.write(f"{program}: {line}\n")
    return code
