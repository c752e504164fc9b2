"""The command `podidctl plan`: MIC's planned changes in the live cluster and on Azure.

`mic.preview` computes the plan.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console

from mic.preview.schema import HostPreview, Preview
from mic.preview.survey import survey_by
from mic.preview.text import SIGNS, becomes, chosen, facts, fine, hosts, read_failures, summary, title
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect
from podidctl.commands.options import Kubeconfig, KubeContext, OutputFormat, RequestTimeout, examples
from podidctl.report.text import Output, Part, console, print_document, print_error, print_line, print_table
from podidentity.report import SOMETHING_TO_DO, plain
from podidentity.telemetry.logs import LogFormat, configure

COLORS = {"+": "green", "-": "red", "~": "yellow", "=": "cyan", "!": "magenta"}


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("plan", epilog=examples("podidctl plan --cloudconfig azure.json", "podidctl plan --no-azure --all"))
    def _plan(
        *,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        cloudconfig: Annotated[
            str, typer.Option(help=("Path of azure.json; without it the credentials come from the environment."))
        ] = "",
        no_azure: Annotated[
            bool, typer.Option("--no-azure", help=("Do not send requests to Azure; leave out what only Azure knows."))
        ] = False,
        force_namespaced: Annotated[
            bool, typer.Option("--force-namespaced", help=("Same as MIC's --forceNamespaced."))
        ] = False,
        adopt_existing: Annotated[
            bool, typer.Option("--adopt-existing", help="Same as MIC's --adopt-existing.")
        ] = False,
        immutable_user_msis: Annotated[str, typer.Option(help="Same as MIC's --immutable-user-msis.")] = "",
        assign_cluster_identity: Annotated[
            bool, typer.Option("--assign-cluster-identity", help="Same as MIC's --assign-cluster-identity.")
        ] = False,
        allowed_resource_groups: Annotated[str, typer.Option(help="Same as MIC's --allowed-resource-groups.")] = "",
        arm_api_version: Annotated[str, typer.Option(help="Same as MIC's --arm-api-version.")] = "",
        output: OutputFormat = Output.TABLE,
        everything: Annotated[bool, typer.Option("--all", help="Print unchanged hosts and every object, too.")] = False,
    ) -> None:
        """Show the changes that MIC would make to the cluster and to Azure now. Makes no changes.

        Pass the flags of the running MIC. The exit code is 0 if there is nothing to do, 3 if there are changes, and 1
        if the plan is not complete.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(
            kube_context,
            request_timeout,
            kubeconfig=kubeconfig,
            cloudconfig=cloudconfig,
            forceNamespaced=force_namespaced,
            adopt_existing=adopt_existing,
            immutable_user_msis=immutable_user_msis,
            assign_cluster_identity=assign_cluster_identity,
            allowed_resource_groups=allowed_resource_groups,
            arm_api_version=arm_api_version,
        )
        preview = asyncio.run(_survey(settings, ask_azure=not no_azure))
        show(preview, output, console(), everything=everything)
        # An incomplete plan proves neither that there are changes nor that there are none.
        if preview.unread_hosts:
            raise typer.Exit(print_error(f"the plan is not complete: {'; '.join(read_failures(preview))}"))
        raise typer.Exit(SOMETHING_TO_DO if preview.changes else 0)


async def _survey(settings: ClusterSettings, *, ask_azure: bool) -> Preview:
    async with connect(settings) as client:
        return await survey_by(client, settings, ask_azure=ask_azure)


def show(preview: Preview, output: Output, console: Console, *, everything: bool) -> None:
    """Print *preview*; with *everything* also unchanged hosts and every object."""
    if output is not Output.TABLE:
        print_document(preview if everything else preview.shortened(), output, console)
        return
    first, *rest = summary(preview)
    print_line(console, (plain(first), "bold"))
    for line in rest:
        print_line(console, _plain(line))
    listed, more = hosts(preview, everything=everything)
    for host in listed:
        _show_host(host, console, everything=everything)
    if more:
        console.print(f"\n… and {more} more VMs and scale sets (--all lists them)")
    if preview.left_out:
        rows = ((plain(f"{group.kind} {group.name}"), str(group.pods), plain(group.why)) for group in preview.left_out)
        print_table(("ignored until they are corrected", "pods", "why"), rows, console)


def _show_host(host: HostPreview, console: Console, *, everything: bool) -> None:
    console.print()
    print_line(console, (plain(title(host)), "bold"))
    if host.problem:
        print_line(console, ("!", "magenta"), f" Azure did not respond: {plain(host.problem)}")
    for sign, fact in facts(host):
        print_line(console, "  ", (sign, COLORS[sign]), f" {plain(fact)}")
    if host.objects:
        columns = ("", "AzureAssignedIdentity", "pod", "node", "identity", "becomes")
        print_table(columns, _rows(host, everything=everything), console)
    if host.as_it_should_be:
        console.print(f"  {fine(host)}", style="dim")


def _rows(host: HostPreview, *, everything: bool) -> Iterator[Sequence[Part]]:
    for verb, changes, more in chosen(host, everything=everything):
        verb_cell = (verb, COLORS[SIGNS[verb]])
        for change in changes:
            cells = (f"{change.namespace}/{change.name}", change.pod, change.node, change.identity, becomes(change))
            yield (verb_cell, *map(plain, cells))
        if more:
            yield verb_cell, f"… and {more} more (--all lists them)"


def _plain(text: str) -> str:
    """Return the plain *text* with its indent."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    return f"{indent}{plain(text)}"
