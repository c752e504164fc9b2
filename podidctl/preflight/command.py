"""The command `podidctl preflight`."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console

from mic.startup.azure_reader import azure_reader
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, check_namespace, connect
from podidctl.commands.options import Kubeconfig, KubeContext, OutputFormat, RequestTimeout, examples, print_report
from podidctl.preflight.checks import Preflight, preflight
from podidctl.preflight.reader import read_state
from podidctl.preflight.roles import check_mic_roles
from podidctl.report.documents import Report
from podidctl.report.finding import Level, exit_code
from podidctl.report.findings_table import show as show_report
from podidctl.report.text import Output, print_line, print_text
from podidentity.azure.identity_permissions import is_grantable
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("preflight", epilog=examples("podidctl preflight --namespace podid --roles"))
    def _preflight(
        *,
        namespace: Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the installation.")] = "podid",
        repository: Annotated[str, typer.Option(help="Your value of image.repository.")] = "",
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        roles: Annotated[
            bool,
            typer.Option(
                "--roles", help="Check the roles of MIC's principal, read with --cloudconfig, else with your az login."
            ),
        ] = False,
        principal: Annotated[
            str,
            typer.Option(
                metavar="OBJECT-ID", help="MIC's principal for --roles. Default: the AKS cluster's kubelet identity."
            ),
        ] = "",
        cloudconfig: Annotated[str, typer.Option(help="Path of azure.json, for --roles.")] = "",
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Check a cluster before the installation, and show the chart values that it needs.

        Nothing is changed: whether policies accept NMI's pods is tried by a dry run. The exit code is 3 if there is a
        problem, else 1 if something could not be read, else 0.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        check_namespace(namespace)
        if (principal or cloudconfig) and not roles:
            raise typer.BadParameter("--principal and --cloudconfig are for --roles: add it")
        if principal and not is_grantable(principal):
            raise typer.BadParameter(f"--principal {principal!a} is no object id; see docs/install-on-aks.md")

        async def checked() -> Preflight:
            async with connect(settings) as client, AsyncExitStack() as stack:
                state = await read_state(client, namespace, repository)
                if roles:
                    _, azure = await stack.enter_async_context(azure_reader(settings, by_cli=not cloudconfig))
                    state = replace(state, roles=await check_mic_roles(client, azure, state, principal.strip()))
                return preflight(state)

        report = asyncio.run(checked())
        print_report(report, output, show)
        raise typer.Exit(exit_code((finding.level for finding in report.findings), Level.PROBLEM))


def show(report: Preflight, to: Console) -> None:
    """Print the findings, and the values below them."""
    show_report(Report(report.findings), to)
    print_line(to, ("values.yaml", "bold"))
    print_text(report.values, to)
