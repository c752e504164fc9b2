"""Settings and output of `podidctl plan`: MIC's planned changes in the live cluster and on Azure.

`mic.preview` computes the plan.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape as unstyled
from rich.table import Table

from mic.preview.schema import HostPreview, Preview
from mic.preview.text import SIGNS, becomes, chosen, facts, fine, hosts, summary, title
from mic.startup.settings import Settings, parse
from podidctl.printing import Output, print_document
from podidentity.report import plain

COLORS = {"+": "green", "-": "red", "~": "yellow", "=": "cyan", "!": "magenta"}


def settings(flags: Iterable[tuple[str, object]], environ: Mapping[str, str], home: Path) -> Settings:
    """Return the settings of a MIC with these *flags* and this environment; None or an empty value omits a flag.

    If neither names a kubeconfig and this process is not in a pod, kubectl's default file in *home* is used. Raises
    UsageError.
    """
    argv = [f"--{name}={value}" for name, value in flags if value not in (None, "", False)]
    given = parse(["--plan", *argv], environ)
    usual = home / ".kube" / "config"
    if not given.kubeconfig and not given.service_host and usual.is_file():
        return parse(["--plan", f"--kubeconfig={usual}", *argv], environ)
    return given


def show(preview: Preview, output: Output, console: Console, *, everything: bool) -> None:
    """Print *preview*; with *everything* also unchanged hosts and every object."""
    if output is not Output.TABLE:
        print_document(preview if everything else preview.shortened(), output, console)
        return
    first, *rest = summary(preview)
    console.print(f"[bold]{_escape(first)}[/]", soft_wrap=True)
    for line in rest:
        console.print(_escape(line), soft_wrap=True)
    listed, more = hosts(preview, everything=everything)
    for host in listed:
        _show_host(host, console, everything=everything)
    if more:
        console.print(f"\n… and {more} more VMs and scale sets (--all lists them)")
    if preview.left_out:
        table = Table("ignored until they are corrected", "pods", "why", box=SIMPLE, title_justify="left")
        for each in preview.left_out:
            table.add_row(_escape(f"{each.kind} {each.name}"), str(each.pods), _escape(each.why))
        console.print(table)


def _show_host(host: HostPreview, console: Console, *, everything: bool) -> None:
    console.print()
    console.print(f"[bold]{_escape(title(host))}[/]", soft_wrap=True)
    if host.problem:
        console.print(f"[magenta]![/] Azure did not respond: {_escape(host.problem)}", soft_wrap=True)
    for sign, fact in facts(host):
        console.print(f"  [{COLORS[sign]}]{sign}[/] {_escape(fact)}", soft_wrap=True)
    if host.objects:
        table = Table("", "AzureAssignedIdentity", "pod", "node", "identity", "becomes", box=SIMPLE)
        for column in table.columns:
            column.overflow = "fold"
        for verb, changes, more in chosen(host, everything=everything):
            color = COLORS[SIGNS[verb]]
            for each in changes:
                cells = (f"{each.namespace}/{each.name}", each.pod, each.node, each.identity, becomes(each))
                table.add_row(f"[{color}]{verb}[/]", *(_escape(cell) for cell in cells))
            if more:
                table.add_row(f"[{color}]{verb}[/]", f"… and {more} more (--all lists them)")
        console.print(table)
    if host.as_it_should_be:
        console.print(f"  {fine(host)}", style="dim")


def _escape(text: str) -> str:
    """Return *text*, which may be untrusted, without terminal control characters and with markup escaped."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    return unstyled(f"{indent}{plain(text)}")
