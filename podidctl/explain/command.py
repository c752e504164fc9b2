"""`podidctl explain`, as the command line has it."""

import asyncio
import shlex
from typing import Annotated

import typer

from mic.preview.schema import SOMETHING_TO_DO
from mic.preview.survey import reached
from mic.startup.settings import Settings
from podidctl.completion import Names
from podidctl.explain.chain import explain
from podidctl.explain.shapes import Explanation
from podidctl.explain.show import show
from podidctl.inquiry.facts import Facts, Rules
from podidctl.inquiry.gather import gather, given_rules
from podidctl.printing import Output, console, print_document
from podidctl.reaching import CLOUDCONFIG_HELP, KUBECONFIG_HELP, Surroundings, named, reach
from podidentity.flags import UsageError
from podidentity.telemetry.logs import LogFormat, configure

NMI_FLAGS_HELP = "NMI's flags, in one word, where they are not to be read from its pod on the node."


def add_to(app: typer.Typer, around: Surroundings) -> None:
    """Add the command group to *app*."""
    names = Names(around)
    group = typer.Typer(help="Why something is as it is.", no_args_is_help=True, rich_markup_mode=None)

    @group.callback()
    def _group() -> None:
        """Why something is as it is."""

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
        output: Annotated[Output, typer.Option("-o", "--output", help="How to print it.")] = Output.TABLE,
    ) -> None:
        """Tell each link between a pod and its token, in order, and what to do at the first that is broken.

        It ends with 0 where no link is broken, with 3 where one is, and with 1 where it could not look.
        """
        configure(LogFormat.TEXT, 0)
        settings = around.settings(kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        given = rules(nmi_flags)
        told = asyncio.run(_explained(settings, name, namespace, given, ask_azure=bool(cloudconfig)))
        to = console()
        if output is Output.TABLE:
            show(told, to)
        else:
            print_document(told, output, to)
        raise typer.Exit(SOMETHING_TO_DO if told.broken else 0)

    app.add_typer(group, name="explain")


def rules(nmi_flags: str) -> Rules | None:
    """What --nmi-flags gives. Raises typer.BadParameter."""
    if not nmi_flags:
        return None
    try:
        return given_rules(shlex.split(nmi_flags), "--nmi-flags")
    except (UsageError, ValueError) as wrong:
        raise typer.BadParameter(f"--nmi-flags: {wrong}") from wrong


async def facts_about(
    settings: Settings, name: str, namespace: str, given: Rules | None, *, ask_azure: bool = False
) -> Facts:
    """What is known of the pod that is called so on the command line. Raises StartError and typer.BadParameter."""
    async with reach(settings) as client:
        place, bare = named(name, namespace, client.access.namespace or "default")
        if not ask_azure:
            return await gather(client, place, bare, given=given, azure=None)
        async with reached(settings) as (_, azure):
            return await gather(client, place, bare, given=given, azure=azure)


async def _explained(
    settings: Settings, name: str, namespace: str, given: Rules | None, *, ask_azure: bool
) -> Explanation:
    return explain(await facts_about(settings, name, namespace, given, ask_azure=ask_azure))
