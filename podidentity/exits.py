"""Exit of a program's command: the errors that print one line on stderr, and the exit codes.

0 after an orderly stop; 1 if something outside of the program must change; 2 for an unusable command line or an
installation without the program's extra; 130 for Ctrl-C. Any other error is a defect and keeps its traceback. Only a
program's `cli` or `launcher` uses this module.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from podidentity.flags import UsageError

_UNWRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE})
_OWN_PACKAGES: Final = frozenset({"_native", "mic", "nmi", "podidctl", "podidentity", "podidentity_sandbox"})


class StartError(Exception):
    """A program cannot start or continue until the operator changes something outside of it.

    The text is one line with the cause and the next action. Raise it `from` the cause.
    """


def ended(program: str, work: Callable[[], None], *, expected: tuple[type[Exception], ...] = (StartError,)) -> int:
    """Run *work* and return the exit code. An error of *expected*, alone or from a TaskGroup, gives 1.

    A missing package of the extra that has the name of *program* gives 2.
    """
    escape_unencodable()
    try:
        work()
    except ModuleNotFoundError as error:
        return missing_package(program, error)
    except UsageError as error:
        return _print_error(program, error, 2)
    except expected as error:
        return _print_error(program, error, 1)
    except ExceptionGroup as group:  # from a TaskGroup
        matched, rest = group.split(expected)
        # With an unexpected error next to the expected one, the traceback is needed.
        if matched is None or rest is not None:
            raise
        return _print_error(program, first_error(matched), 1)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells expect, for Ctrl-C before the program handles signals
    return 0


def escape_unencodable() -> None:
    """Let standard output escape characters that its encoding lacks, as standard error always does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def written_output() -> Iterator[None]:
    """Write what standard output has buffered at the end of the context. Only for code that prints: a daemon's broken
    connections have the same errors.

    Raise StartError if there is no space for the output, and SystemExit if its reader has ended, as after `head`.
    """
    try:
        try:
            yield
        except SystemExit:  # after --help
            _flush()
            raise
        _flush()
    except OSError as error:
        if error.errno not in _UNWRITTEN or sys.stdout is None:
            raise
        # The interpreter writes the buffer again when it ends, and would print a traceback.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise SystemExit(1) from error
        raise StartError(
            f"the output cannot be written ({error.strerror}): free space on its disk, or redirect it elsewhere"
        ) from error


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def missing_package(program: str, error: ModuleNotFoundError) -> int:
    """Print the extra of *program* that has the missing package, and return the exit code 2.

    Raises *error* if the missing module is a part of this project: then the installation is damaged.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package in _OWN_PACKAGES:
        raise error
    line = f"the package {package} is missing: {installation(program)}"
    return _print_error(program, StartError(line), 2)


def installation(extras: str) -> str:
    """Return the command that installs *extras*, also over an installation without them.

    It names no package: the project owns no name on a package index. Only NMI needs a compiler.
    """
    omit = "" if {"nmi", "sandbox"}.intersection(extras.split(",")) else "NATIVE_OMIT=1 "
    return (
        f"{omit}pipx install --force '.[{extras}]' in a checkout of this project, or the same with a release's wheel "
        f"for the dot (in a virtual environment {omit}pip install --force-reinstall)"
    )


def first_error(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of *group*, at any depth."""
    inner = group.exceptions[0]
    return first_error(inner) if isinstance(inner, ExceptionGroup) else inner


def _print_error(program: str, error: Exception, code: int) -> int:
    from podidentity.report import error_line  # noqa: PLC0415  for an error only

    sys.stderr.write(f"{program}: {error_line(str(error))}\n")
    return code
