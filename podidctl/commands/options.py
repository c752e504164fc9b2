"""Options that several commands have, and the output of a command's document."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from podidctl.commands.connection import KUBECONFIG_HELP
from podidctl.report.text import Output, console, print_document

T = TypeVar("T")
Kubeconfig = Annotated[str, typer.Option(help=KUBECONFIG_HELP)]
KubeContext = Annotated[str, typer.Option("--context", help="Context of the kubeconfig. Default: the current one.")]
RequestTimeout = Annotated[
    str, typer.Option(metavar="DURATION", help="Time limit of each request to the API server, such as 30s; 0: none.")
]
Cloudconfig = Annotated[
    str, typer.Option(help="Path of azure.json, to read the state on Azure, too. Default: no requests to Azure.")
]
NmiFlags = Annotated[
    str, typer.Option(help="NMI's flags as one argument, if they cannot be read from its pod on the node.")
]
OutputFormat = Annotated[Output, typer.Option("-o", "--output", help="Output format.")]


def examples(*commands: str) -> str:
    """Return the `epilog` of a command whose help ends with these *commands*, which operators can copy."""
    # \b keeps the lines.
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


def print_report(report: T, output: Output, show: Callable[[T, Console], None]) -> None:
    """Print *report* by *show*, or as JSON or YAML."""
    if output is Output.TABLE:
        show(report, console())
    else:
        print_document(report, output, console())
