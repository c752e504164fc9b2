"""The command `podidctl`, also installed as `kubectl-podidentity`: the only module here that reads the environment.

Exit codes: 0 on success, 1 on failure (one line on stderr states the cause), 2 for a wrong command line, 130 after
Ctrl-C, 128 and the signal's number if `verify` deletes its pods after a signal. `plan` exits with 0 if MIC has no
changes to make and with 3 if it has. `explain`, `token`, `doctor` and `verify` exit with 0 if they find no fault, with
3 if they find one, and with 1 if they cannot read the state. `access` exits with 1 if a part could not be read, and
with 3 for a violated policy or a difference. The commands of `migrate` exit with 0 if no action remains for the
operator, with 3 if one remains, and with 1 on failure.
"""

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Final, Never, cast

import typer

from podidctl.commands.connection import CliContext, home_directory
from podidctl.commands.options import examples
from podidctl.report.text import print_error
from podidentity.exits import StartError, written_output
from podidentity.report import error_line
from podidentity.version import VERSION

# Newer releases of Typer vendor click and older ones use the installed one. Only Typer's own names lead to the class
# that both raise.
USAGE_ERROR: Final = cast(
    "type[Exception]", next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
)

NO_FILES: Final = 4
ANY_FILE: Final = 0
"""Directives of kubectl's completion."""
CONTEXT: Final = CliContext(os.environ, home_directory)
COMMANDS: Final[Mapping[str, str]] = {
    "sandbox": "podidctl.sandbox_command",
    "preflight": "podidctl.preflight.command",
    "migrate": "podidctl.migration.command",
    "explain": "podidctl.commands.explain",
    "token": "podidctl.commands.token",
    "doctor": "podidctl.commands.doctor",
    "verify": "podidctl.verify.command",
    "bundle": "podidctl.bundle.command",
    "top": "podidctl.top.command",
    "access": "podidctl.access.command",
    "plan": "podidctl.commands.plan",
}
"""The module of each command, in the order of the help text. Its `add_to` adds the command to the program."""


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the program with the commands *names*. Only their modules are imported."""
    app = typer.Typer(
        help="Azure identities for pods: explain why a pod gets no token, preview MIC's changes, try both in a "
        "sandbox.",
        epilog=examples("podidctl doctor", "podidctl explain pod NAMESPACE/POD", "podidctl sandbox demo"),
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    for name in names:
        import_module(COMMANDS[name]).add_to(app, CONTEXT)
    return app


def needed(words: Sequence[str]) -> Iterable[str]:
    """Return the commands that the command line *words* needs: one if it starts with the name of one, else all.

    The modules of all commands take half a second of CPU time to import, most of it for other commands.
    """
    return words[:1] if words and words[0] in COMMANDS else COMMANDS


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"podidctl {VERSION}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version


def _usage_line(message: str) -> str:
    """Return the line about a wrong command line. Some versions of Typer call a wrong choice a `Value error`."""
    return f"podidctl: {error_line(message.replace('Value error, ', '', 1)).rstrip('.')}. Try --help."


def _complete_and_exit(complete: Callable[[Sequence[str]], int]) -> Never:
    """Print completions by *complete* and end this process, without waiting for a thread that resolves a name. The
    programs that a kubeconfig names get no terminal.
    """
    code: object = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = complete(sys.argv[1:])
    except SystemExit as done:  # fish reads the exit code
        code = done.code
    finally:
        os._exit(code if isinstance(code, int) else 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code. A wrong command line prints one line on stderr."""
    # With *argv*, print_completions is the caller, and it needs this process after the call.
    if argv is None and "_PODIDCTL_COMPLETE" in os.environ:
        _complete_and_exit(main)
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with written_output():
            result = application(needed(words))(args=words, prog_name="podidctl", standalone_mode=False)
    except USAGE_ERROR as wrong:
        message = cast("typer.BadParameter", wrong).format_message()
        # A command group without a command raises its whole help text.
        helps = message.startswith("Usage:")
        print(message if helps else _usage_line(message), file=sys.stderr)
        return 2
    except StartError as error:
        return print_error(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return int(result or 0)


def print_completions(argv: Sequence[str] | None = None) -> int:
    """Print the completions of the last word of *argv*, and whether the shell may complete files, as kubectl's plugin
    protocol defines. Return the exit code.
    """
    if argv is None:
        _complete_and_exit(print_completions)
    words = list(argv)
    # Typer's completion for fish has kubectl's format: a word, a tab and its description on each line.
    line = shlex.join(["podidctl", *words])
    os.environ |= {
        "_PODIDCTL_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": line,
    }
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(words)
    completions = printed.getvalue().strip()
    print(f"{completions}\n:{NO_FILES}" if completions else f":{ANY_FILE}", flush=True)
    return 0
