"""Definition of the command `podidctl verify` and its output."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Console

from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import (
    NAME_PATTERN,
    REQUEST_TIMEOUT,
    CliContext,
    ClusterSettings,
    check_namespace,
    connect,
)
from podidctl.commands.options import Kubeconfig, KubeContext, OutputFormat, RequestTimeout, examples, print_report
from podidctl.commands.signals import until_signal
from podidctl.report.finding import COLORS, Level, exit_code
from podidctl.report.text import Output, grouped, listed, print_error, print_line, print_table
from podidctl.verify.canary_runner import CanaryRunner
from podidctl.verify.pod import CANARY_SELECTOR
from podidctl.verify.verdicts import Verification
from podidctl.verify.verification import PARALLEL, TIMEOUT_SECONDS, verify
from podidentity.report import counted
from podidentity.telemetry.logs import LogFormat, configure

PARALLEL_MAX: Final = 100
TIMEOUT_MIN: Final = 30
"""The canary's program ends after 26 seconds at the latest."""
TIMEOUT_MAX: Final = 600


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""
    names = ClusterNames(context)

    @app.command("verify", epilog=examples("podidctl verify", "podidctl verify --node NODE -o json"))
    def _verify(
        *,
        node: Annotated[
            list[str] | None,
            typer.Option(help="Only this node; may be repeated. Default: all Linux nodes.", autocompletion=names.nodes),
        ] = None,
        namespace: Annotated[
            str,
            typer.Option(
                "-n",
                "--namespace",
                help="Namespace of the canary pods. Default: NMI's.",
                autocompletion=names.namespaces,
            ),
        ] = "",
        parallel: Annotated[
            int, typer.Option(help="Canary pods that run at the same time.", min=1, max=PARALLEL_MAX)
        ] = PARALLEL,
        timeout: Annotated[
            int, typer.Option(help="Seconds for one canary, with its image.", min=TIMEOUT_MIN, max=TIMEOUT_MAX)
        ] = TIMEOUT_SECONDS,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Prove who answers pods at the metadata address, by a canary pod on each node.

        The exit code is 0 if NMI answers on each node, 3 if not, and 1 if there is no fault but a node is unknown.

        Permissions: list pods and nodes (with --node: get nodes); in NMI's namespace get pods and get pods/log; in the
        namespace of the canary pods create, get, list and delete pods.
        """
        configure(LogFormat.TEXT, 0)
        if namespace:
            check_namespace(namespace)
        wrong = next((name for name in node or () if not NAME_PATTERN.fullmatch(name)), None)
        if wrong is not None:
            raise typer.BadParameter(f"--node {wrong!a} is not a node name; see kubectl get nodes")
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        report = asyncio.run(_run(settings, node or (), namespace, parallel, timeout))
        print_report(report, output, show)
        raise typer.Exit(exit_code(node.level for node in report.nodes))


async def _run(
    settings: ClusterSettings, nodes: Sequence[str], namespace: str, parallel: int, timeout: int
) -> Verification:
    async with connect(settings) as client:
        runner = CanaryRunner(client)
        try:
            return await until_signal(
                verify(client, runner, nodes=nodes, namespace=namespace, parallel=parallel, timeout_seconds=timeout),
                runner.delete_all,
            )
        finally:
            # Also after a signal, because the operator must know which pods remain.
            for space, names in grouped(runner.not_deleted).items():
                few = len(names) <= PARALLEL_MAX
                command = f"kubectl delete pod -n {space} {' '.join(sorted(names)) if few else f'-l {CANARY_SELECTOR}'}"
                print_error(f"could not delete {counted(len(names), 'canary pod')}: {command}")


def show(report: Verification, to: Console) -> None:
    """Print one line per node, then the next action of each node that needs one."""
    print_table(
        ("", "node", "answered by", "NMI", ""),
        (
            ((node.level, COLORS[node.level]), node.node, node.answered_by, node.nmi or "-", node.says)
            for node in report.nodes
        ),
        to,
    )
    faulty = [node for node in report.nodes if node.next and node.level is not Level.OK]
    for action, nodes in grouped((node.next, node.node) for node in faulty).items():
        print_line(to, (listed(nodes, 3), "bold"), f": {action}")
