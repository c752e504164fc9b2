"""The command `podidctl`, also installed as `kubectl-podidentity`: the one place here that reads the environment.

Exit codes: 0 all went well, 1 something did not (one line on stderr says what), 2 a wrong command line, 130 Ctrl-C
during a command that was to end by itself. `plan` ends with 0 where MIC has nothing to do and with 3 where it has;
`explain`, `token` and `doctor` end with 0 where all is well, with 3 where something is not, and with 1 where they could
not look; those of `migrate` with 0 where nothing is left for a person, with 3 where something is, and with 1, too.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from mic.preview.schema import SOMETHING_TO_DO
from mic.preview.survey import survey
from mic.preview.text import unanswered
from podidctl import plan as plan_command
from podidctl import printing
from podidctl.cluster_access import KUBECONFIG_HELP, CliContext
from podidctl.doctor import command as doctor_command
from podidctl.explain import command as explain_command
from podidctl.migration.command import application as migrate_application
from podidctl.printing import print_error
from podidctl.sandbox_command import application as sandbox_application
from podidctl.token import command as token_command
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.telemetry.logs import LogFormat, configure
from podidentity.version import VERSION

# Typer brings its own copy of click in newer releases and uses the installed one in older ones: only by way of Typer's
# own names is the class found that both raise.
USAGE_ERROR: Final = cast(
    "type[Exception]", next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
)

app = typer.Typer(
    help="Azure identities for pods: why one gets no token, what MIC would do, and a little cloud to try them in.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
CONTEXT: Final = CliContext(os.environ, Path.home)
app.add_typer(sandbox_application(CONTEXT), name="sandbox")
app.add_typer(migrate_application(os.environ), name="migrate")
explain_command.add_to(app, CONTEXT)
token_command.add_to(app, CONTEXT)
doctor_command.add_to(app, CONTEXT)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"podidctl {VERSION}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version


@app.command("plan")
def plan(
    *,
    kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
    cloudconfig: Annotated[str, typer.Option(help="azure.json; without it the environment has the credentials.")] = "",
    no_azure: Annotated[bool, typer.Option("--no-azure", help="Tell what can be told without asking Azure.")] = False,
    force_namespaced: Annotated[bool, typer.Option("--force-namespaced", help="As MIC's --forceNamespaced.")] = False,
    adopt_existing: Annotated[bool, typer.Option("--adopt-existing", help="As MIC's --adopt-existing.")] = False,
    immutable_user_msis: Annotated[str, typer.Option(help="As MIC's --immutable-user-msis.")] = "",
    arm_api_version: Annotated[str, typer.Option(help="As MIC's --arm-api-version.")] = "",
    output: Annotated[printing.Output, typer.Option("-o", "--output", help="How to print it.")] = printing.Output.TABLE,
    everything: Annotated[bool, typer.Option("--all", help="Also what stays as it is, and every object.")] = False,
) -> None:
    """Tell what MIC would do against the cluster and Azure now, and do nothing.

    Give it the flags of the MIC that runs. It ends with 0 where there is nothing to do, with 3 where there is
    something, and with 1 where that is not wholly known.
    """
    flags = {
        "kubeconfig": kubeconfig,
        "cloudconfig": cloudconfig,
        "forceNamespaced": force_namespaced,
        "adopt-existing": adopt_existing,
        "immutable-user-msis": immutable_user_msis,
        "arm-api-version": arm_api_version,
    }
    configure(LogFormat.TEXT, 0)
    console = printing.console()
    try:
        settings = plan_command.settings(flags.items(), os.environ, Path.home())
        preview = asyncio.run(survey(settings, ask_azure=not no_azure))
    except UsageError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong
    except StartError as error:
        raise typer.Exit(print_error(str(error))) from error
    plan_command.show(preview, output, console, everything=everything)
    if preview.unanswered:
        raise typer.Exit(print_error(f"the plan is not complete: {'; '.join(unanswered(preview))}"))
    raise typer.Exit(SOMETHING_TO_DO if preview.changes else 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. A wrong command line is one line on stderr."""
    try:
        result = app(args=None if argv is None else list(argv), prog_name="podidctl", standalone_mode=False)
    except USAGE_ERROR as wrong:
        message = cast("typer.BadParameter", wrong).format_message()
        # A command group without a command raises its whole help text.
        helps = message.startswith("Usage:")
        print(message if helps else f"podidctl: {' '.join(message.split())} Try --help.", file=sys.stderr)
        return 2
    except StartError as error:
        return print_error(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return int(result or 0)
