"""`podidctl token`, as the command line has it, and what it prints."""

import asyncio
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mic.preview.schema import SOMETHING_TO_DO
from podidctl.completion import Names
from podidctl.explain.command import NMI_FLAGS_HELP, facts_about, rules
from podidctl.explain.show import OUTCOMES
from podidctl.inquiry.verdict import MANAGEMENT, Outcome
from podidctl.printing import Output, console, print_document
from podidctl.reaching import KUBECONFIG_HELP, Surroundings
from podidctl.token.foretold import Foretold, foretell
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, around: Surroundings) -> None:
    """Add the command to *app*."""
    names = Names(around)

    @app.command("token")
    def _token(
        name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        *,
        namespace: Annotated[
            str, typer.Option("-n", "--namespace", help="The pod's namespace.", autocompletion=names.namespaces)
        ] = "",
        resource: Annotated[str, typer.Option(help="For whom the token is to be.")] = MANAGEMENT,
        client_id: Annotated[str, typer.Option(help="The identity that the request names, by its client id.")] = "",
        resource_id: Annotated[str, typer.Option(help="The same, by its resource id.")] = "",
        kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
        nmi_flags: Annotated[str, typer.Option(help=NMI_FLAGS_HELP)] = "",
        output: Annotated[Output, typer.Option("-o", "--output", help="How to print it.")] = Output.TABLE,
    ) -> None:
        """Tell which identity a pod would get a token of, or what NMI would refuse it with; no token is fetched.

        It ends with 0 where the pod is served, with 3 where it is not, and with 1 where it could not look.
        """
        configure(LogFormat.TEXT, 0)
        settings = around.settings(kubeconfig=kubeconfig)
        facts = asyncio.run(facts_about(settings, name, namespace, rules(nmi_flags)))
        told = foretell(facts, resource, client_id=client_id, resource_id=resource_id)
        to = console()
        if output is Output.TABLE:
            show(told, to)
        else:
            print_document(told, output, to)
        raise typer.Exit(0 if told.outcome in {Outcome.GRANTED, Outcome.EXEMPT} else SOMETHING_TO_DO)


def show(told: Foretold, to: Console) -> None:
    """Print it, a line for each thing that is to be said."""
    color = OUTCOMES.get(told.outcome, "red")
    to.print(f"[bold]pod {escape(told.pod)}[/]: [{color}]{told.outcome}[/]", soft_wrap=True)
    lines = [(name, text) for name, text in _lines(told) if text]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        to.print(f"  {name:<{width}}  {escape(text)}", soft_wrap=True)
    to.print(
        f"[dim]decided by {escape(told.rules)}; Azure itself was not asked, and may still refuse[/]", soft_wrap=True
    )


def _lines(told: Foretold) -> Iterator[tuple[str, str]]:
    yield "identity", told.identity
    yield "type", told.type
    yield "client id", told.client_id
    yield "resource id", told.resource_id
    yield "audience", told.audience
    yield "asked", told.asked
    yield "subject", told.subject
    yield "held", f"{told.held_seconds:g} s, then:" if told.held_seconds else ""
    yield "answer", f"{told.status} {told.error}: {told.description}" if told.status is not None else ""
    yield "why", told.why
    yield "but", told.note
