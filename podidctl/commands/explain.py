"""The command `podidctl explain`."""

import asyncio
import inspect
import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Annotated, Final, NoReturn

import typer
from msgspec.structs import replace
from rich.console import Console

from mic.azure.host_client import AzureReader
from mic.startup.azure_reader import azure_reader
from podidctl.checks.explanation import causes_of
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect, parse_pod_name
from podidctl.commands.explain_targets import KINDS, POD, Target, explain_target
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
from podidctl.reading.pods import PODS_MAX
from podidctl.reading.reader import pod_parts, read
from podidctl.report.documents import Explanation, Link, LinkState, LoggedDecision, Outcome, PodsExplanation
from podidctl.report.text import Output, console, listed, print_line, print_table, print_text, timeless
from podidentity.flags import UsageError
from podidentity.kube.errors import ApiError
from podidentity.report import SOMETHING_TO_DO, counted, plain
from podidentity.resources import PODS
from podidentity.telemetry.logs import LogFormat, configure

COLORS = {LinkState.OK: "green", LinkState.BROKEN: "red", LinkState.UNKNOWN: "yellow"}
OUTCOMES: Final[Mapping[str, str]] = {Outcome.GRANTED: "green", Outcome.EXEMPT: "cyan"}
GROUPS_MAX: Final = 10
"""Causes, and identities, that are printed about several pods."""
WATCH_SECONDS: Final = 5.0
"""Time between the end of a read and the next one."""
POD_HELP: Final = (
    "Show each link between a pod and its token, in order, and the next action for the first broken link.\n\nWithout a "
    "NAME, show the causes once for all running pods that have the label aadpodidbinding, or that -l selects."
)
OBJECT_HELP: Final = "Show what is wrong with the {kind}, then the causes once for all running pods that it concerns."
EXIT_CODES: Final = "The exit code is 0 if no link is broken, 3 if one is, and 1 if the state could not be read."
POD_EXAMPLES: Final = ("podidctl explain pod -n NAMESPACE -l app=demo", "podidctl explain pod -A -o json")
POD_OPTIONS: Final = frozenset({"everywhere", "selector", "roles"})
"""Options that only the command for pods has."""
Report = Explanation | PodsExplanation
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C, and print changes of the cause or the next action.")
]

Roles = Annotated[
    bool,
    typer.Option(
        "--roles",
        help="If a service responds 403 to the token of the pod NAME: list the role assignments of its identity, "
        "read with --cloudconfig, else with your az login.",
    ),
]


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

    for word in (POD, *KINDS):
        _add_command(group, context, names, word)
    app.add_typer(group, name="explain")


def _add_command(group: typer.Typer, context: CliContext, names: ClusterNames, word: str) -> None:
    """Add the command for the kind *word*. Only that for pods has POD_OPTIONS, and requires no name."""
    kind, is_pod, is_node = KINDS.get(word, PODS), word == POD, word == "node"

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return names.of(kind, ctx, incomplete)

    what = "Pods of this namespace only." if is_node else f"The {kind.name}'s namespace."
    namespaces = typer.Option("-n", "--namespace", help=what, autocompletion=names.namespaces)
    everywhere_option = typer.Option("-A", "--all-namespaces", help="Pods of all namespaces.")
    labels = typer.Option("-l", "--selector", help="Pods with these labels, in kubectl's syntax.")
    argument = typer.Argument(help="NAME." if is_node else "NAMESPACE/NAME, or NAME.", autocompletion=complete)

    def _explain(
        name: Annotated[str, argument] = "" if is_pod else ...,  # type: ignore[assignment] # of Typer: required
        *,
        namespace: Annotated[str, namespaces] = "",
        everywhere: Annotated[bool, everywhere_option] = False,
        selector: Annotated[str, labels] = "",
        watch: Watch = False,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        cloudconfig: Cloudconfig = "",
        roles: Roles = False,
        nmi_flags: NmiFlags = "",
        output: OutputFormat = Output.TABLE,
    ) -> None:
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        target = Target(word, name, namespace, everywhere, selector)
        _run(settings, target, nmi_flags, output, watch=watch, ask_azure=bool(cloudconfig), roles=roles)

    if not is_pod:
        declared = inspect.signature(_explain)
        its = [item for name, item in declared.parameters.items() if name not in POD_OPTIONS]
        vars(_explain)["__signature__"] = declared.replace(parameters=its)  # Typer's options
    short = "a pod, or several pods" if is_pod else f"the {kind.name} and the pods that it concerns"
    example = f"podidctl explain {word} {'NODE' if is_node else f'NAMESPACE/{word.upper()}'}"
    text = OBJECT_HELP.format(kind=kind.name) if not is_pod else POD_HELP
    epilog = examples(example, *(POD_EXAMPLES if is_pod else ()))
    group.command(word, short_help=f"Explain {short}.", help=f"{text}\n\n{EXIT_CODES}", epilog=epilog)(_explain)


def _run(
    settings: ClusterSettings,
    target: Target,
    nmi_flags: str,
    output: Output,
    *,
    watch: bool,
    ask_azure: bool,
    roles: bool,
) -> NoReturn:
    """Print the explanation, and exit. Raises StartError and typer.BadParameter."""
    configure(LogFormat.TEXT, 0)
    given = nmi_configuration_from(nmi_flags)
    target.check()  # a wrong command line is reported before a missing kubeconfig
    if watch and output is not Output.TABLE:
        raise typer.BadParameter("--watch prints changes for a terminal: omit -o, or omit --watch")

    if roles and not target.name:
        raise typer.BadParameter("--roles lists the roles of one pod's identity: pass the NAME of the pod")

    async def explained() -> Report:
        async with connect(settings) as client, AsyncExitStack() as stack:
            azure: AzureReader | None = None
            if ask_azure or roles:
                _, azure = await stack.enter_async_context(azure_reader(settings, by_cli=not ask_azure))
            hosts, assignments = azure if ask_azure else None, azure if roles else None
            read = partial(explain_target, client, target, given, hosts, assignments)
            if watch:
                await watch_report(read, console(), datetime.now)
            return await read()

    report = asyncio.run(explained())
    print_report(report, output, show)
    raise typer.Exit(SOMETHING_TO_DO if report.broken else 0)


async def watch_report(read: Callable[[], Awaitable[Report]], to: Console, clock: Callable[[], datetime]) -> NoReturn:
    """Print the report, and again after the time of day whenever its first line or its next action has changed, until
    the caller cancels it. Raises ApiError if the first read fails; later failures are printed.
    """
    before: tuple[str, ...] = ()
    while True:
        try:
            report = await read()
            now: tuple[str, ...] = (timeless(report.summary), timeless(report.next))
            if now != before:
                print_line(to, (f"{clock():%H:%M:%S}", "bold"))
                show(report, to)
        except ApiError as error:
            if not before:
                raise
            now = (plain(f"cannot read the cluster: {error}; trying again"),)
            if now != before:
                print_line(to, (f"{clock():%H:%M:%S}", "bold"), f" {now[0]}")
        before = now
        await asyncio.sleep(WATCH_SECONDS)


def nmi_configuration_from(nmi_flags: str) -> NmiConfiguration | None:
    """Return the configuration in --nmi-flags, or None. Raises typer.BadParameter."""
    if not nmi_flags:
        return None
    try:
        return given_configuration(shlex.split(nmi_flags))
    except (UsageError, ValueError) as wrong:
        raise typer.BadParameter(f"--nmi-flags: {wrong}") from wrong


async def read_input(settings: ClusterSettings, name: str, namespace: str, given: NmiConfiguration | None) -> Facts:
    """Return the facts about the pod on the command line. Raises StartError and typer.BadParameter."""
    parse_pod_name(name, namespace, "default")  # a wrong name is reported before a missing kubeconfig
    async with connect(settings) as client:
        scope = Facts(scope=parse_pod_name(name, namespace, client.access.namespace or "default"), configuration=given)
        return await read(client, scope, pod_parts(None))


def show(report: Report, console: Console) -> None:
    """Print the cause first."""
    kind, _, text = report.summary.partition(": ")
    color = "red" if report.broken else OUTCOMES.get(kind, "yellow")
    print_line(console, (kind, f"bold {color}"), f": {text}")
    if isinstance(report, Explanation):
        show_pod(report, console)
    else:
        show_pods(report, console)


def show_pod(explanation: Explanation, console: Console) -> None:
    """Print the next action, NMI's response, the links, and recent log lines and Events."""
    answer = explanation.answer
    if explanation.next:
        print_line(console, ("next:", "bold"), f" {explanation.next}")
    print_line(console, f"pod {explanation.pod}: {answer.outcome}: {answer.says}")
    print_table(
        ("", "link", ""),
        (((link.state, COLORS[link.state]), link.link, link.text) for link in explanation.links),
        console,
        cell_lines=2,
    )
    roles = (f"{assignment.role}: {assignment.scope}" for assignment in explanation.roles)
    _print_lines("role assignments", roles, console)
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


def show_pods(report: PodsExplanation, console: Console) -> None:
    """Print the links of the object, and the first causes and outcomes with some of their pods."""
    broken = _print_object(report, console)
    unread = [(its.pod, link) for its in report.pods for link in its.links if link.state is LinkState.UNKNOWN]
    # Their texts name the objects where it matters, and one reason concerns many.
    unknown = causes_of((pod, replace(link, about="none")) for pod, link in unread)
    for cause in (*report.causes[:GROUPS_MAX], *unknown[:GROUPS_MAX]):
        link, is_unknown = cause.link, cause.link.state is LinkState.UNKNOWN
        head = (f"unknown {link.link}", "yellow") if is_unknown else (link.link, "bold red")
        print_line(console, head, f": {link.text}")
        print_line(console, f"  {counted(len(cause.pods), 'pod')}: {listed(cause.pods)}")
        # The operator has this action already, from the links of the object.
        if link.next and (broken is None or link.next != broken.next):
            print_line(console, ("  next:", "bold"), f" {link.next}")
    for served in report.served[:GROUPS_MAX]:
        count, color = counted(len(served.pods), "pod"), OUTCOMES.get(served.outcome, "red")
        identity = f" {served.identity}" if served.identity else ""
        print_line(console, (served.outcome, color), f"{identity}: {count}: {listed(served.pods)}")
    if more := sum(max(0, len(groups) - GROUPS_MAX) for groups in (report.causes, unknown, report.served)):
        print_line(console, f"{more} more causes and identities: -o json has all of them")
    if report.omitted:
        most = f"one run explains at most {PODS_MAX}; select fewer with -n or -l"
        print_line(console, f"{counted(report.omitted, 'more pod is', 'more pods are')} not explained: {most}")
    _print_unread("NMI's log", [explanation.decided_unread for explanation in report.pods], console)
    _print_unread("Events", [explanation.events_unread for explanation in report.pods], console)
    first = {cause.pods[0] for cause in report.causes[:GROUPS_MAX]}
    for manifest in dict.fromkeys(explanation.manifest for explanation in report.pods if explanation.pod in first):
        if manifest:
            print_text(manifest, console)
    if report.pods:
        print_line(console, (f"decided by {listed({explanation.rules for explanation in report.pods}, 2)}", "dim"))


def _print_object(report: PodsExplanation, console: Console) -> Link | None:
    """Print the links of the object, and the counts of its pods. Return its first broken link, which the first line
    has.
    """
    broken = next((link for link in report.links if link.state is LinkState.BROKEN), None)
    for link in sorted(report.links, key=lambda link: link is not broken):
        if link is not broken:
            print_line(console, (link.state, COLORS[link.state]), f" {link.link}: {link.text}")
        if link.next:
            print_line(console, ("next:" if link is broken else "  next:", "bold"), f" {link.next}")
    if report.pods and report.counts != report.summary:
        print_line(console, ("pods: ", "bold"), report.counts)
    return broken


def _print_unread(what: str, reasons: Iterable[str], console: Console) -> None:
    if unread := list(filter(None, reasons)):
        print_line(console, f"{what} of {counted(len(unread), 'pod')} could not be read: {unread[0]}")


def _print_lines(title: str, lines: Iterable[str], console: Console) -> None:
    """Print the untrusted *lines* below *title*; nothing if there are none."""
    for number, line in enumerate(lines):
        if number == 0:
            print_line(console, (title, "bold"))
        print_line(console, f"  {line}")


def _decision_line(decision: LoggedDecision) -> str:
    status = str(decision.status) if decision.status is not None else ""
    answered = "unanswered" if decision.unanswered else ""
    parts = (decision.at, answered, status, decision.outcome, decision.identity, decision.resource)
    repeats = f", repeated {counted(decision.repeats, 'time')}" if decision.repeats else ""
    return f"{' '.join(filter(None, parts))}{repeats}{f': {decision.error}' if decision.error else ''}"
