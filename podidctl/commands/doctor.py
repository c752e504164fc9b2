"""The command `podidctl doctor`."""

import asyncio
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from mic.azure.reading import read_hosts
from mic.startup.azure_reader import azure_reader
from nmi.settings import NmiSettings
from podidctl.checks.rules import report
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect
from podidctl.commands.options import (
    Cloudconfig,
    Kubeconfig,
    KubeContext,
    OutputFormat,
    RequestTimeout,
    examples,
    print_report,
)
from podidctl.evaluation.needs import CHECKED_MAX, live_pods, used_hosts
from podidctl.facts.model import AzureState, Facts, NodeState
from podidctl.facts.settings import nmi_settings, on_node, read_settings
from podidctl.reading.machine import read_node
from podidctl.reading.reader import CLUSTER, read
from podidctl.report.documents import Report
from podidctl.report.finding import Level, exit_code
from podidctl.report.findings_table import show
from podidctl.report.text import Output, listed
from podidentity.flags import UsageError
from podidentity.report import plain
from podidentity.telemetry.logs import LogFormat, configure


class FailOn(StrEnum):
    """The least severe fault with exit code 3."""

    PROBLEM = Level.PROBLEM
    WARNING = Level.WARNING


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("doctor", epilog=examples("podidctl doctor", "podidctl doctor --fail-on=warning -o json"))
    def _doctor(
        *,
        node: Annotated[
            str, typer.Option(help="Check the rules of this machine, too, as the node of this name (requires root).")
        ] = "",
        imds: Annotated[bool, typer.Option("--imds", help="Send a request to IMDS, too; requires --node.")] = False,
        fail_on: Annotated[FailOn, typer.Option(help="The least severe fault with exit code 3.")] = FailOn.PROBLEM,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        cloudconfig: Cloudconfig = "",
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Check the whole installation and show each fault with the next action.

        The exit code is 3 if there is a problem, or with --fail-on=warning a warning; else 1 if something could not be
        read, else 0.
        """
        configure(LogFormat.TEXT, 0)
        if imds and not node:
            raise typer.BadParameter("--imds sends a request from this machine: pass its node name with --node")
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        report = asyncio.run(_examine(settings, node, imds=imds, ask_azure=bool(cloudconfig)))
        print_report(report, output, show)
        raise typer.Exit(exit_code(report.levels, Level(fail_on)))


async def _examine(settings: ClusterSettings, node: str, *, imds: bool, ask_azure: bool) -> Report:
    async with connect(settings) as client:
        state = await read(client, Facts(), CLUSTER)
    # The pods and nodes together show which hosts to read.
    if ask_azure and not state.unread:
        async with azure_reader(settings) as (_, compute):
            state = replace(state, azure=AzureState(await read_hosts(compute, used_hosts(state)[:CHECKED_MAX])))
    return report(state, await _read_node(state, node, imds=imds) if node else None)


async def _read_node(state: Facts, node: str, *, imds: bool) -> NodeState:
    """Return the state of this machine as *node*. Raises typer.BadParameter for a name that a node cannot have."""
    try:
        settings = NmiSettings(node_name=node)
    except UsageError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong
    here = None if state.unread else _labelled_pods(state, node)
    # The check of flags reports those that cannot be read.
    of_nmi = next(iter(read_settings(on_node(state.nmi, node), nmi_settings)[0]), settings)
    return await read_node(of_nmi, pods=here, ask_imds=imds)


def _labelled_pods(objects: Facts, node: str) -> int:
    """Return the number of labelled pods on *node*. Raises typer.BadParameter if the cluster has no such node."""
    names = {placed_node.metadata.name for placed_node in objects.nodes}
    if node not in names:
        raise typer.BadParameter(f"the cluster has no node {node}; its nodes are {plain(listed(names)) or '(none)'}")
    return sum(pod.spec.node_name == node and not pod.spec.host_network for pod in live_pods(objects))
