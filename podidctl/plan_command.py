"""Definition of the command `podidctl plan`."""

import asyncio
from typing import Annotated

import typer

from mic.preview.survey import survey
from mic.preview.text import unanswered
from podidctl.cluster_access import KUBECONFIG_HELP, CliContext
from podidctl.plan import settings as settings_of
from podidctl.plan import show
from podidctl.printing import Output, print_error
from podidctl.printing import console as new_console
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.report import SOMETHING_TO_DO
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("plan")
    def _plan(
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
        adopt_existing: Annotated[
            bool, typer.Option("--adopt-existing", help="Same as MIC's --adopt-existing.")
        ] = False,
        immutable_user_msis: Annotated[str, typer.Option(help="Same as MIC's --immutable-user-msis.")] = "",
        assign_cluster_identity: Annotated[
            bool, typer.Option("--assign-cluster-identity", help="Same as MIC's --assign-cluster-identity.")
        ] = False,
        allowed_resource_groups: Annotated[str, typer.Option(help="Same as MIC's --allowed-resource-groups.")] = "",
        arm_api_version: Annotated[str, typer.Option(help="Same as MIC's --arm-api-version.")] = "",
        output: Annotated[Output, typer.Option("-o", "--output", help="Output format.")] = Output.TABLE,
        everything: Annotated[bool, typer.Option("--all", help="Print unchanged hosts and every object, too.")] = False,
    ) -> None:
        """Show the changes that MIC would make to the cluster and to Azure now. Makes no changes.

        Pass the flags of the running MIC. The exit code is 0 if there is nothing to do, 3 if there are changes, and 1
        if the plan is not complete.
        """
        flags = {
            "kubeconfig": kubeconfig,
            "cloudconfig": cloudconfig,
            "forceNamespaced": force_namespaced,
            "adopt-existing": adopt_existing,
            "immutable-user-msis": immutable_user_msis,
            "assign-cluster-identity": assign_cluster_identity,
            "allowed-resource-groups": allowed_resource_groups,
            "arm-api-version": arm_api_version,
        }
        configure(LogFormat.TEXT, 0)
        console = new_console()
        try:
            settings = settings_of(flags.items(), context.environ, context.home())
            preview = asyncio.run(survey(settings, ask_azure=not no_azure))
        except UsageError as wrong:
            raise typer.BadParameter(str(wrong)) from wrong
        except StartError as error:
            raise typer.Exit(print_error(str(error))) from error
        show(preview, output, console, everything=everything)
        if preview.unanswered:
            raise typer.Exit(print_error(f"the plan is not complete: {'; '.join(unanswered(preview))}"))
        raise typer.Exit(SOMETHING_TO_DO if preview.changes else 0)
