"""The command `podidctl`, also installed as `kubectl-podidentity`: the one place here that reads the environment.

Exit codes: 0 all went well, 1 something did not (one line on stderr says what), 2 a wrong command line, 130 Ctrl-C
during a command that was to end by itself. `plan` ends with 0 where MIC has nothing to do and with 3 where it has;
`explain`, `token` and `doctor` end with 0 where all is well, with 3 where something is not, and with 1 where they could
not look.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, cast

import typer
from rich.console import Console
from rich.markup import escape

from mic.preview.shapes import SOMETHING_TO_DO
from mic.preview.survey import survey
from mic.preview.text import unanswered
from podidctl import plan as plans
from podidctl import printing
from podidctl.doctor import command as examining
from podidctl.explain import command as explaining
from podidctl.migration.command import application as migrate_application
from podidctl.reaching import Surroundings
from podidctl.sandbox.cloud import Sandbox, SandboxError, Settings
from podidctl.sandbox.cluster import ClusterError
from podidctl.sandbox.demo import Demo, DemoError
from podidctl.sandbox.namespaces import NamespaceError
from podidctl.sandbox.network import Place
from podidctl.sandbox.pod_shapes import NodePod
from podidctl.sandbox.processes import ProgramError
from podidctl.token import command as telling
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.kube.errors import AccessError, ApiError
from podidentity.telemetry.logs import LogFormat, configure
from podidentity.version import VERSION

TOKEN_QUERY = "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"  # noqa: S105 - no secret
FAILURES = (SandboxError, ClusterError, NamespaceError, ProgramError, AccessError, ApiError, DemoError, OSError)

# Typer brings its own copy of click in newer releases and uses the installed one in older ones: only by way of Typer's
# own names is the class found that both raise.
USAGE_ERROR: Final = cast(
    "type[Exception]", next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
)

app = typer.Typer(
    help="Azure identities for pods: why one gets no token, what MIC would do, and a little cloud to try them in.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sandbox_app = typer.Typer(help="A whole little cloud on this machine.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(migrate_application(os.environ), name="migrate")
AROUND: Final = Surroundings(os.environ, Path.home)
explaining.add_to(app, AROUND)
telling.add_to(app, AROUND)
examining.add_to(app, AROUND)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"podidctl {VERSION}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version


Nodes = Annotated[int, typer.Option(min=1, max=50, help="How many nodes, each with a VM of its own.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Use the API server of this file, on 127.0.0.1, not the emulator."),
]
Loopback = Annotated[
    bool, typer.Option("--loopback", help="Loopback addresses for pods even where network namespaces could be made.")
]


@sandbox_app.command("up")
def sandbox_up(
    nodes: Nodes = 1,
    kubeconfig: Kubeconfig = None,
    loopback: Loopback = False,
    scale_set: Annotated[bool, typer.Option("--scale-set", help="Nodes are instances of one scale set.")] = False,
    operation_seconds: Annotated[float, typer.Option(min=0, help="How long ARM takes to change a VM.")] = 2.0,
) -> None:
    """Run a sandbox until Ctrl-C, and print how to use it."""
    settings = Settings(
        nodes=nodes,
        scale_set=scale_set,
        kubeconfig=kubeconfig,
        namespaces=False if loopback else None,
        operation_seconds=operation_seconds,
        environment=os.environ,
    )
    raise typer.Exit(asyncio.run(_up(settings, Console(highlight=False))))


@sandbox_app.command("demo")
def sandbox_demo(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
    kubeconfig: Kubeconfig = None,
    loopback: Loopback = False,
) -> None:
    """Show a pod get its tokens, from start to clean-up; the exit code says whether all went well."""
    settings = Settings(kubeconfig=kubeconfig, namespaces=False if loopback else None, environment=os.environ)
    raise typer.Exit(asyncio.run(_demo(settings, as_json=as_json)))


@app.command("plan")
def plan(
    *,
    kubeconfig: Annotated[
        str, typer.Option(help="A kubeconfig; without it KUBECONFIG, the pod's service account, or kubectl's own.")
    ] = "",
    cloudconfig: Annotated[str, typer.Option(help="azure.json; without it the environment has the credentials.")] = "",
    no_azure: Annotated[bool, typer.Option("--no-azure", help="Tell what can be told without asking Azure.")] = False,
    force_namespaced: Annotated[bool, typer.Option("--force-namespaced", help="As MIC's --forceNamespaced.")] = False,
    adopt_existing: Annotated[bool, typer.Option("--adopt-existing", help="As MIC's --adopt-existing.")] = False,
    immutable_user_msis: Annotated[str, typer.Option(help="As MIC's --immutable-user-msis.")] = "",
    arm_api_version: Annotated[str, typer.Option(help="As MIC's --arm-api-version.")] = "",
    output: Annotated[printing.Output, typer.Option("-o", "--output", help="How to print it.")] = printing.Output.TABLE,
    everything: Annotated[bool, typer.Option("--all", help="Also what stays as it is, and every object.")] = False,
) -> None:
    """Tell what MIC would do against the cluster and Azure now, and do nothing.

    Give it the flags of the MIC that runs. It ends with 0 where there is nothing to do, with 3 where there is
    something, and with 1 where that is not wholly known.
    """
    flags = {
        "kubeconfig": kubeconfig,
        "cloudconfig": cloudconfig,
        "forceNamespaced": force_namespaced,
        "adopt-existing": adopt_existing,
        "immutable-user-msis": immutable_user_msis,
        "arm-api-version": arm_api_version,
    }
    configure(LogFormat.TEXT, 0)
    console = printing.console()
    try:
        settings = plans.settings(flags.items(), os.environ, Path.home())
        preview = asyncio.run(survey(settings, ask_azure=not no_azure))
    except UsageError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong
    except StartError as error:
        raise typer.Exit(_say(str(error))) from error
    plans.show(preview, output, console, everything=everything)
    if preview.unanswered:
        raise typer.Exit(_say(f"the plan is not complete: {'; '.join(unanswered(preview))}"))
    raise typer.Exit(SOMETHING_TO_DO if preview.changes else 0)


async def _up(settings: Settings, console: Console) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def pod_runs(node: str, pod: NodePod, place: Place) -> None:
        if pod.spec.host_network:
            return
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        console.print(f"pod {escape(name)} runs on {node} at {place.address}; to ask for its token:", soft_wrap=True)
        bind = "" if place.prefix else f"--interface {place.address} "
        url = f"{sandbox.metadata_url(node)}/metadata/identity/oauth2/token?{TOKEN_QUERY}"
        command = f"{' '.join(place.command(['curl']))} -s {bind}-H Metadata:true '{url}'"
        console.print(f"  {escape(command)}", soft_wrap=True)

    sandbox = Sandbox(settings, running=pod_runs)
    try:
        starting = asyncio.create_task(sandbox.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return 0
        starting.result()
        _introduce(sandbox, console)
        while not stop.is_set():
            failure = sandbox.failure()
            if failure:
                return _say(failure)
            await asyncio.wait({stopping}, timeout=1.0)
        console.print("stopping")
    except FAILURES as failure:
        return _say(str(failure))
    finally:
        await sandbox.stop()
    return 0


def _introduce(sandbox: Sandbox, console: Console) -> None:
    """Say where everything is, in lines that can be copied into a shell."""
    node = sandbox.node_names[0]
    azure = sandbox.azure
    lines = [
        f"export KUBECONFIG={sandbox.cluster.kubeconfig}",
        f"# ARM and AAD show certificates of the authority in {sandbox.files.certificates}",
        f"# ARM {azure.arm.url}  AAD {azure.aad.url}  IMDS {azure.imds.url}",
        f"# logs and configuration: {sandbox.folder}",
    ]
    if sandbox.redirects:
        lines += [f"# {name}: {' '.join(place.prefix)} iptables-save -t nat" for name, place in sandbox.places.items()]
    else:
        lines.append(f"# {sandbox.why_loopback}: no nat rule; pods ask NMI at {sandbox.metadata_url(node)}")
    lines.append("# try: kubectl apply -f deploy/demo/ && kubectl logs -f demo")
    console.print("The sandbox is up. Ctrl-C ends it. In another terminal:")
    for line in lines:
        console.print(f"  {escape(line)}", soft_wrap=True)


async def _demo(settings: Settings, *, as_json: bool) -> int:
    console = Console(highlight=False)
    demo = Demo(Sandbox(settings))
    this, loop = asyncio.current_task(), asyncio.get_running_loop()
    if this is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, this.cancel)
    began = time.monotonic()
    failure = ""
    try:
        with console.status("under way") if not as_json else contextlib.nullcontext():
            async for step in demo.steps():
                if as_json:
                    _emit({"step": step.name, "answer": step.answer, "seconds": round(step.seconds, 3), "ok": True})
                    continue
                console.print(f"[green]✓[/] {escape(step.name)} [dim]{step.seconds:.1f} s[/]", soft_wrap=True)
                for line in step.answer.splitlines():
                    console.print(f"    {escape(line)}", soft_wrap=True)
    except asyncio.CancelledError:
        return 130
    except FAILURES as error:
        failure = f"{demo.doing}: {error}" if not isinstance(error, DemoError) else str(error)
    seconds = time.monotonic() - began
    if as_json:
        _emit({"ok": not failure, "seconds": round(seconds, 3), "lines": demo.lines, "error": failure or None})
    if failure:
        return _say(failure)
    if not as_json:
        console.print(f"The demo went well, in {seconds:.1f} s.")
    return 0


def _emit(document: object) -> None:
    print(json.dumps(document, ensure_ascii=False), flush=True)


def _say(line: str) -> int:
    """One line on stderr; the exit code that goes with it."""
    print(f"podidctl: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. A wrong command line is one line on stderr."""
    try:
        result = app(args=None if argv is None else list(argv), prog_name="podidctl", standalone_mode=False)
    except USAGE_ERROR as wrong:
        message = cast("typer.BadParameter", wrong).format_message()
        # A command group without a command raises its whole help text.
        helps = message.startswith("Usage:")
        print(message if helps else f"podidctl: {' '.join(message.split())} Try --help.", file=sys.stderr)
        return 2
    except StartError as error:
        return _say(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return int(result or 0)
