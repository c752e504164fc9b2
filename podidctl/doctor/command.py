"""`podidctl doctor`, as the command line has it, and what it prints."""

import asyncio
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from mic.preview.schema import SOMETHING_TO_DO
from mic.startup.settings import Settings as Reaching
from nmi.settings import Settings
from podidctl.cluster_access import KUBECONFIG_HELP, CliContext, connect
from podidctl.diagnosis.daemons import nmi_settings
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.gather import gather
from podidctl.doctor.node_checks import NodeState
from podidctl.doctor.node_reader import read_node
from podidctl.doctor.objects import live_pods
from podidctl.doctor.report import report
from podidctl.doctor.schema import Level, Report, listed
from podidctl.doctor.state import ClusterState, Objects
from podidctl.printing import Output, console, plain, print_document, print_table
from podidentity.flags import UsageError
from podidentity.telemetry.logs import LogFormat, configure

COLORS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red", Level.UNKNOWN: "magenta"}


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("doctor")
    def _doctor(
        *,
        node: Annotated[
            str, typer.Option(help="This machine is the node of that name: look at its rules too (as root).")
        ] = "",
        imds: Annotated[bool, typer.Option("--imds", help="Ask IMDS, too; with --node.")] = False,
        kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
        output: Annotated[Output, typer.Option("-o", "--output", help="How to print it.")] = Output.TABLE,
    ) -> None:
        """Check the whole installation, and tell what is wrong with it and what to do.

        It ends with 0 where all is well, with 3 where something was found, and with 1 where something could not be
        looked at and nothing else was found.
        """
        configure(LogFormat.TEXT, 0)
        if imds and not node:
            raise typer.BadParameter("--imds asks from this machine: name it as a node with --node")
        report = asyncio.run(_examine(context.settings(kubeconfig=kubeconfig), node, imds=imds))
        to = console()
        if output is Output.TABLE:
            show(report, to)
        else:
            print_document(report, output, to)
        raise typer.Exit(SOMETHING_TO_DO if report.anything else int(report.unknown))


async def _examine(settings: Reaching, node: str, *, imds: bool) -> Report:
    async with connect(settings) as client:
        state = await gather(client)
    return report(state, await _read_node(state, node, imds=imds) if node else None)


async def _read_node(state: ClusterState, node: str, *, imds: bool) -> NodeState:
    """This machine, as the node of that name. Raises typer.BadParameter for what no node is called."""
    try:
        settings = Settings(node_name=node)
    except UsageError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong
    here = _labelled_pods(state.objects, node) if isinstance(state.objects, Objects) else None
    for each in () if isinstance(state.nmi, ReadFailure) else state.nmi:
        if each.spec.node_name == node:
            try:
                settings = nmi_settings(each)
            except UsageError:
                continue  # told by the check of flags
    return await read_node(settings, pods=here, ask_imds=imds)


def _labelled_pods(objects: Objects, node: str) -> int:
    """How many pods with a label run on *node*. Raises typer.BadParameter where the cluster has no such node."""
    names = {each.metadata.name for each in objects.nodes}
    if node not in names:
        raise typer.BadParameter(
            f"the cluster has no node {node}; its nodes are called {plain(listed(names)) or '(none)'}"
        )
    return sum(each.spec.node_name == node and not each.spec.host_network for each in live_pods(objects))


def show(report: Report, to: Console) -> None:
    """Print a line for each finding, and what to do about each that needs it."""
    print_table(
        ("", "check", ""),
        ((f"[{COLORS[each.level]}]{each.level}[/]", each.check, each.says) for each in report.findings),
        to,
    )
    for each in report.findings:
        if each.next and each.level is not Level.OK:
            to.print(f"[bold]{each.check}[/]: {escape(each.next)}", soft_wrap=True)
