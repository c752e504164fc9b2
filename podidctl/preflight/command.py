"""The command `podidctl preflight`."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, check_namespace, connect
from podidctl.commands.options import Kubeconfig, KubeContext, OutputFormat, RequestTimeout, examples, print_report
from podidctl.preflight.checks import Preflight, preflight
from podidctl.preflight.reader import read_state
from podidctl.report.documents import Report
from podidctl.report.finding import Level, exit_code
from podidctl.report.findings_table import show as show_report
from podidctl.report.text import Output, print_line, print_text
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("preflight", epilog=examples("podidctl preflight --namespace podid"))
    def _preflight(
        *,
        namespace: Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the installation.")] = "podid",
        repository: Annotated[str, typer.Option(help="Your value of image.repository.")] = "",
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Check a cluster before the installation, and show the chart values that it needs.

        Nothing is changed: whether policies accept NMI's pods is tried by a dry run. The exit code is 3 if there is a
        problem, else 1 if something could not be read, else 0.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        check_namespace(namespace)
        report = asyncio.run(_check(settings, namespace, repository))
        print_report(report, output, show)
        raise typer.Exit(exit_code((finding.level for finding in report.findings), Level.PROBLEM))


async def _check(settings: ClusterSettings, namespace: str, repository: str) -> Preflight:
    async with connect(settings) as client:
        return preflight(await read_state(client, namespace, repository))


def show(report: Preflight, to: Console) -> None:
    """Print the findings, and the values below them."""
    show_report(Report(report.findings), to)
    print_line(to, ("values.yaml", "bold"))
    print_text(report.values, to)
