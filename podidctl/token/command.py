"""Definition of the command `podidctl token` and its output."""

import asyncio
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from podidctl.cluster_access import KUBECONFIG_HELP, CliContext
from podidctl.completion import ClusterNames
from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE, UNTIL_A_CHANGE, Outcome
from podidctl.explain.command import NMI_FLAGS_HELP, nmi_configuration_from, read_input
from podidctl.explain.show import OUTCOMES
from podidctl.printing import Output, console, print_document, print_text
from podidctl.token.prediction import TokenPrediction, predict
from podidentity.report import SOMETHING_TO_DO
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""
    names = ClusterNames(context)

    @app.command("token")
    def _token(
        name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        *,
        namespace: Annotated[
            str, typer.Option("-n", "--namespace", help="The pod's namespace.", autocompletion=names.namespaces)
        ] = "",
        resource: Annotated[str, typer.Option(help="Audience of the token.")] = MANAGEMENT_RESOURCE,
        client_id: Annotated[str, typer.Option(help="Client id of the identity that the request names.")] = "",
        resource_id: Annotated[str, typer.Option(help="Resource id of the identity that the request names.")] = "",
        kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
        nmi_flags: Annotated[str, typer.Option(help=NMI_FLAGS_HELP)] = "",
        output: Annotated[Output, typer.Option("-o", "--output", help="Output format.")] = Output.TABLE,
    ) -> None:
        """Show the identity whose token a pod would get, or NMI's refusal. No token is fetched.

        The exit code is 0 if the pod is served, 3 if it is not, and 1 if the state could not be read.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kubeconfig=kubeconfig)
        data = asyncio.run(read_input(settings, name, namespace, nmi_configuration_from(nmi_flags)))
        report = predict(data, resource, client_id=client_id, resource_id=resource_id)
        to = console()
        if output is Output.TABLE:
            show(report, to)
        else:
            print_document(report, output, to)
        raise typer.Exit(0 if report.outcome in {Outcome.GRANTED, Outcome.EXEMPT} else SOMETHING_TO_DO)


def show(report: TokenPrediction, to: Console) -> None:
    """Print the prediction, one line per field."""
    color = OUTCOMES.get(report.outcome, "red")
    to.print(f"[bold]pod {escape(report.pod)}[/]: [{color}]{report.outcome}[/]", soft_wrap=True)
    lines = [(name, text) for name, text in _lines(report) if text]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        to.print(f"  {name:<{width}}  {escape(text)}", soft_wrap=True)
    if report.manifest:
        print_text(report.manifest, to)
    to.print(
        f"[dim]decided by {escape(report.rules)}; no request was sent to Azure, which may still refuse[/]",
        soft_wrap=True,
    )


def _lines(report: TokenPrediction) -> Iterator[tuple[str, str]]:
    yield "identity", report.identity
    yield "type", report.type
    yield "client id", report.client_id
    yield "resource id", report.resource_id
    yield "audience", report.audience
    yield "asked", report.asked
    yield "subject", report.subject
    yield "exchange", report.exchange
    yield "held", f"until {report.held_seconds:g} s after the first request, then:" if report.held_seconds else ""
    body = f"{report.error}: {report.description}" if report.error else "(in NMI's log)"
    yield "answer", f"{report.status} {body}" if report.status is not None else ""
    yield "repeats", UNTIL_A_CHANGE if report.immediate_repeats else ""
    yield "why", report.why
    yield "but", report.note
