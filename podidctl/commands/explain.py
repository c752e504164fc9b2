"""The command `podidctl explain`."""

import asyncio
import shlex
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console

from mic.startup.azure_reader import azure_reader
from podidctl.checks.explanation import explain
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect, parse_pod_name
from podidctl.commands.options import (
    Cloudconfig,
    Kubeconfig,
    KubeContext,
    NmiFlags,
    OutputFormat,
    RequestTimeout,
    examples,
    print_report,
)
from podidctl.facts.model import Facts, NmiConfiguration
from podidctl.facts.settings import given_configuration
from podidctl.reading.reader import pod_parts, read
from podidctl.report.documents import Explanation, LinkState, LoggedDecision, Outcome
from podidctl.report.text import Output, print_line, print_table, print_text
from podidentity.flags import UsageError
from podidentity.report import SOMETHING_TO_DO, counted
from podidentity.telemetry.logs import LogFormat, configure

COLORS = {LinkState.OK: "green", LinkState.BROKEN: "red", LinkState.UNKNOWN: "yellow"}
OUTCOMES = {Outcome.GRANTED: "green", Outcome.EXEMPT: "cyan"}


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command group to *app*."""
    names = ClusterNames(context)
    group = typer.Typer(
        help="Explain why an object does not work.",
        epilog=examples("podidctl explain pod NAMESPACE/POD"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )

    @group.callback()
    def _group() -> None:
        """Explain why an object does not work."""

    @group.command(
        "pod", epilog=examples("podidctl explain pod NAMESPACE/POD", "podidctl explain pod POD -n NAMESPACE -o json")
    )
    def _pod(
        name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        *,
        namespace: Annotated[
            str, typer.Option("-n", "--namespace", help="The pod's namespace.", autocompletion=names.namespaces)
        ] = "",
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        cloudconfig: Cloudconfig = "",
        nmi_flags: NmiFlags = "",
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Show each link between a pod and its token, in order, and the next action for the first broken link.

        The exit code is 0 if no link is broken, 3 if one is, and 1 if the state could not be read.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        given = nmi_configuration_from(nmi_flags)
        report = explain(asyncio.run(read_input(settings, name, namespace, given, ask_azure=bool(cloudconfig))))
        print_report(report, output, show)
        raise typer.Exit(SOMETHING_TO_DO if report.broken else 0)

    app.add_typer(group, name="explain")


def nmi_configuration_from(nmi_flags: str) -> NmiConfiguration | None:
    """Return the configuration in --nmi-flags, or None. Raises typer.BadParameter."""
    if not nmi_flags:
        return None
    try:
        return given_configuration(shlex.split(nmi_flags))
    except (UsageError, ValueError) as wrong:
        raise typer.BadParameter(f"--nmi-flags: {wrong}") from wrong


async def read_input(
    settings: ClusterSettings, name: str, namespace: str, given: NmiConfiguration | None, *, ask_azure: bool = False
) -> Facts:
    """Return the facts about the pod on the command line. Raises StartError and typer.BadParameter."""
    parse_pod_name(name, namespace, "default")  # a wrong name is reported before a missing kubeconfig
    async with connect(settings) as client:
        scope = Facts(scope=parse_pod_name(name, namespace, client.access.namespace or "default"), configuration=given)
        if not ask_azure:
            return await read(client, scope, pod_parts(None))
        async with azure_reader(settings) as (_, azure):
            return await read(client, scope, pod_parts(azure))


def show(explanation: Explanation, console: Console) -> None:
    """Print the cause and the next action, NMI's response, the links, and recent log lines and Events."""
    answer = explanation.answer
    color = "red" if explanation.broken else OUTCOMES.get(answer.outcome, "red")
    kind, _, text = explanation.summary.partition(": ")
    print_line(console, (kind, f"bold {color}"), f": {text}")
    if explanation.next:
        print_line(console, ("next:", "bold"), f" {explanation.next}")
    print_line(console, f"pod {explanation.pod}: {answer.outcome}: {answer.says}")
    print_table(
        ("", "link", ""),
        (((link.state, COLORS[link.state]), link.link, link.text) for link in explanation.links),
        console,
        cell_lines=2,
    )
    _print_lines("NMI's log, UTC", map(_decision_line, explanation.decided), console)
    if explanation.decided_unread:
        print_line(console, f"NMI's log could not be read: {explanation.decided_unread}")
    events = (f"{event.at} {event.by} {event.reason}: {event.message}" for event in explanation.events)
    _print_lines("Events", events, console)
    if explanation.events_unread:
        print_line(console, f"Events could not be read: {explanation.events_unread}")
    for link in explanation.links:
        if link.state is LinkState.UNKNOWN and link.next:
            print_line(console, ("unknown:", "yellow"), f" {link.link} {link.about}: {link.next}")
    if explanation.manifest:
        print_text(explanation.manifest, console)
    print_line(console, (f"decided by {explanation.rules}", "dim"))


def _print_lines(title: str, lines: Iterable[str], console: Console) -> None:
    """Print the untrusted *lines* below *title*; nothing if there are none."""
    for number, line in enumerate(lines):
        if number == 0:
            print_line(console, (title, "bold"))
        print_line(console, f"  {line}")


def _decision_line(decision: LoggedDecision) -> str:
    status = str(decision.status) if decision.status is not None else ""
    parts = (decision.at, status, decision.outcome, decision.identity, decision.resource)
    repeats = f", repeated {counted(decision.repeats, 'time')}" if decision.repeats else ""
    return f"{' '.join(filter(None, parts))}{repeats}{f': {decision.error}' if decision.error else ''}"
