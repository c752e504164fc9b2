"""The command `podidctl`, also installed as `kubectl-podidentity`: the only module here that reads the environment.

Exit codes: 0 on success, 1 on failure (one line on stderr states the cause), 2 for a wrong command line, 130 after
Ctrl-C. `plan` exits with 0 if MIC has no changes to make and with 3 if it has. `explain`, `token` and `doctor` exit
with 0 if they find no fault, with 3 if they find one, and with 1 if they cannot read the state. `access` exits with 1
if a part could not be read, and with 3 for a violated policy or a difference. The commands of `migrate` exit with 0 if
no action remains for the operator, with 3 if one remains, and with 1 on failure.
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
from podidctl.access import command as access_command
from podidctl.cluster_access import KUBECONFIG_HELP, CliContext
from podidctl.doctor import command as doctor_command
from podidctl.explain import command as explain_command
from podidctl.migration.command import application as migrate_application
from podidctl.printing import print_error
from podidctl.sandbox_command import application as sandbox_application
from podidctl.token import command as token_command
from podidctl.top import command as top_command
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.telemetry.logs import LogFormat, configure
from podidentity.version import VERSION

# Newer releases of Typer vendor click and older ones use the installed one. Only Typer's own names lead to the class
# that both raise.
USAGE_ERROR: Final = cast(
    "type[Exception]", next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
)

app = typer.Typer(
    help="Azure identities for pods: explain why a pod gets no token, preview MIC's changes, try both in a sandbox.",
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
top_command.add_to(app, CONTEXT)
access_command.add_to(app, CONTEXT)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"podidctl {VERSION}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version


@app.command("plan")
def plan(
    *,
    kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
    cloudconfig: Annotated[
        str, typer.Option(help=("Path of azure.json; without it the credentials come from the environment."))
    ] = "",
    no_azure: Annotated[
        bool, typer.Option("--no-azure", help=("Do not send requests to Azure; leave out what only Azure knows."))
    ] = False,
    force_namespaced: Annotated[
        bool, typer.Option("--force-namespaced", help=("Same as MIC's --forceNamespaced."))
    ] = False,
    adopt_existing: Annotated[bool, typer.Option("--adopt-existing", help="Same as MIC's --adopt-existing.")] = False,
    immutable_user_msis: Annotated[str, typer.Option(help="Same as MIC's --immutable-user-msis.")] = "",
    arm_api_version: Annotated[str, typer.Option(help="Same as MIC's --arm-api-version.")] = "",
    output: Annotated[printing.Output, typer.Option("-o", "--output", help="Output format.")] = printing.Output.TABLE,
    everything: Annotated[bool, typer.Option("--all", help="Print unchanged hosts and every object, too.")] = False,
) -> None:
    """Show the changes that MIC would make to the cluster and to Azure now. Makes no changes.

    Pass the flags of the running MIC. The exit code is 0 if there is nothing to do, 3 if there are changes, and 1 if
    the plan is not complete.
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
    """Run the command and return the exit code. A wrong command line prints one line on stderr."""
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
