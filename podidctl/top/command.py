"""Definition of the command `podidctl top` and its output."""

import asyncio
import sys
from typing import Annotated, Final

import typer

from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect
from podidctl.commands.options import Kubeconfig, KubeContext, OutputFormat, RequestTimeout, examples, print_report
from podidctl.report.text import Output, console, print_error
from podidctl.top import live
from podidctl.top.reader import read_all
from podidctl.top.sampling import Sample, Sampler
from podidctl.top.view import View, render
from podidentity.telemetry.logs import LogFormat, configure

INTERVAL_SECONDS: Final = 2.0
INTERVAL_MIN: Final = 1.0
"""NMI renders its metrics at most once a second."""
INTERVAL_MAX: Final = 3600.0


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("top", epilog=examples("podidctl top", "podidctl top --once -o json"))
    def _top(
        *,
        interval: Annotated[
            float,
            typer.Option(help="Seconds between two reads of each NMI.", min=INTERVAL_MIN, max=INTERVAL_MAX),
        ] = INTERVAL_SECONDS,
        once: Annotated[bool, typer.Option("--once", help="Print one sample, also on a terminal.")] = False,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Show what NMI does on each node: pods, requests, refusals, tokens and calls to IMDS.

        On a terminal the table is refreshed: arrow keys select the sort column and scroll, r reverses, q quits.
        Otherwise one sample is printed. The exit code is 1 if no NMI can be read.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        # The keys of the live view come from a terminal as standard input.
        if output is Output.TABLE and not once and console().is_terminal and sys.stdin.isatty():
            asyncio.run(_live(settings, interval))
            return
        sample = asyncio.run(_sample(settings, interval))
        print_report(sample, output, lambda report, to: to.print(render(report, View())))
        raise typer.Exit(_exit_code(sample))


async def _live(settings: ClusterSettings, interval: float) -> None:
    async with connect(settings) as client:
        await live.show(lambda: read_all(client), console(), interval_seconds=interval)


async def _sample(settings: ClusterSettings, interval: float) -> Sample:
    """Return one sample, from two reads."""
    async with connect(settings) as client:
        sampler = Sampler(lambda: read_all(client))
        await sampler.sample()
        await asyncio.sleep(interval)
        return await sampler.sample()


def _exit_code(sample: Sample) -> int:
    """Return 0 if any NMI could be read, else 1 after a line on stderr."""
    if not sample.nodes:
        return print_error("no pod has NMI's label (app.kubernetes.io/component=nmi, component=nmi); install NMI")
    if all(node.problem for node in sample.nodes):
        return print_error(f"no NMI can be read; the first one: {sample.nodes[0].pod}: {sample.nodes[0].problem}")
    return 0
