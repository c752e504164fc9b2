"""Definition of the command `podidctl explain`."""

import asyncio
import shlex
from typing import Annotated

import typer

from mic.startup.azure_reader import azure_reader
from mic.startup.settings import Settings
from podidctl.cluster_access import CLOUDCONFIG_HELP, KUBECONFIG_HELP, CliContext, connect, parse_pod_name
from podidctl.completion import ClusterNames
from podidctl.diagnosis.gather import gather, given_configuration
from podidctl.diagnosis.input import DiagnosisInput, NmiConfiguration
from podidctl.explain.explanation import explain
from podidctl.explain.schema import Explanation
from podidctl.explain.show import show
from podidctl.printing import Output, console, print_document
from podidentity.flags import UsageError
from podidentity.report import SOMETHING_TO_DO
from podidentity.telemetry.logs import LogFormat, configure

NMI_FLAGS_HELP = "NMI's flags as one argument, if they cannot be read from its pod on the node."


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command group to *app*."""
    names = ClusterNames(context)
    group = typer.Typer(help="Explain why an object does not work.", no_args_is_help=True, rich_markup_mode=None)

    @group.callback()
    def _group() -> None:
        """Explain why an object does not work."""

    @group.command("pod")
    def _pod(
        name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        *,
        namespace: Annotated[
            str, typer.Option("-n", "--namespace", help="The pod's namespace.", autocompletion=names.namespaces)
        ] = "",
        kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
        cloudconfig: Annotated[str, typer.Option(help=CLOUDCONFIG_HELP)] = "",
        nmi_flags: Annotated[str, typer.Option(help=NMI_FLAGS_HELP)] = "",
        output: Annotated[Output, typer.Option("-o", "--output", help="Output format.")] = Output.TABLE,
    ) -> None:
        """Show each link between a pod and its token, in order, and the next action for the first broken link.

        The exit code is 0 if no link is broken, 3 if one is, and 1 if the state could not be read.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        given = nmi_configuration_from(nmi_flags)
        report = asyncio.run(_explain(settings, name, namespace, given, ask_azure=bool(cloudconfig)))
        to = console()
        if output is Output.TABLE:
            show(report, to)
        else:
            print_document(report, output, to)
        raise typer.Exit(SOMETHING_TO_DO if report.broken else 0)

    app.add_typer(group, name="explain")


def nmi_configuration_from(nmi_flags: str) -> NmiConfiguration | None:
    """Return the configuration in --nmi-flags, or None. Raises typer.BadParameter."""
    if not nmi_flags:
        return None
    try:
        return given_configuration(shlex.split(nmi_flags), "--nmi-flags")
    except (UsageError, ValueError) as wrong:
        raise typer.BadParameter(f"--nmi-flags: {wrong}") from wrong


async def read_input(
    settings: Settings, name: str, namespace: str, given: NmiConfiguration | None, *, ask_azure: bool = False
) -> DiagnosisInput:
    """Return the diagnosis input for the pod on the command line. Raises StartError and typer.BadParameter."""
    parse_pod_name(name, namespace, "default")  # a wrong name is reported before a missing kubeconfig
    async with connect(settings) as client:
        place, bare = parse_pod_name(name, namespace, client.access.namespace or "default")
        if not ask_azure:
            return await gather(client, place, bare, given=given, azure=None)
        async with azure_reader(settings) as (_, azure):
            return await gather(client, place, bare, given=given, azure=azure)


async def _explain(
    settings: Settings, name: str, namespace: str, given: NmiConfiguration | None, *, ask_azure: bool
) -> Explanation:
    return explain(await read_input(settings, name, namespace, given, ask_azure=ask_azure))
