"""How a daemon's command ends: which errors are one line on stderr, and with which exit code.

0 after an ordered stop; 1 when something outside must change first; 2 for a command line that cannot be used; 130 for
Ctrl-C. Anything else is a defect of ours and keeps its traceback. Only a program's `cli` calls this.
"""

import sys
from collections.abc import Callable

from podidentity.flags import UsageError


class StartError(Exception):
    """A program cannot start, or cannot go on, until somebody changes something outside of it.

    Its text is one line that says what is wrong and what to do. Raise it `from` the cause.
    """


def ended(program: str, work: Callable[[], None], *, expected: tuple[type[Exception], ...] = (StartError,)) -> int:
    """Do *work* and return the exit code; an error of *expected*, alone or out of a TaskGroup, ends it with 1."""
    try:
        work()
    except UsageError as error:
        return _say(program, error, 2)
    except expected as error:
        return _say(program, error, 1)
    except ExceptionGroup as group:  # out of a TaskGroup
        matched, rest = group.split(expected)
        if matched is None or rest is not None:
            raise
        return _say(program, _first(matched), 1)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT: what a shell expects of a program that Ctrl-C ended before it handled signals itself
    return 0


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first error that *group* holds, however deep."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def _say(program: str, error: Exception, code: int) -> int:
    line = " ".join(str(error).split())
    sys.stderr.write(f"{program}: {line}\n")
    return code
