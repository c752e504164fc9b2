"""`podidctl sandbox …`: the little cloud for hands and eyes. The environment is given by `podidctl.cli`."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from mic.settings import Settings as ClusterSettings
from podidctl.completion import Names
from podidctl.printing import complain
from podidctl.reaching import KUBECONFIG_HELP, Surroundings, named, reach
from podidentity.exits import StartError
from podidentity.kube.errors import AccessError, ApiError
from podidentity.resources import PODS
from podidentity_sandbox.cluster import ClusterError
from podidentity_sandbox.demo import Demo
from podidentity_sandbox.demo_run import DemoError, DemoRun
from podidentity_sandbox.directory import DirectoryError
from podidentity_sandbox.federated_demo import NMI_FLAGS as FEDERATED_NMI_FLAGS
from podidentity_sandbox.federated_demo import FederatedDemo
from podidentity_sandbox.issuing import IssuerError
from podidentity_sandbox.namespaces import NamespaceError, of_any_sandbox
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.pod_projection import NodePod
from podidentity_sandbox.processes import ProgramError
from podidentity_sandbox.sandbox import CHART_VALUES, Sandbox, SandboxError, Settings

TOKEN_QUERY = "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"  # noqa: S105 - no secret
FAILURES = (
    SandboxError,
    ClusterError,
    NamespaceError,
    ProgramError,
    AccessError,
    ApiError,
    DemoError,
    DirectoryError,
    IssuerError,
    OSError,
)

Nodes = Annotated[int, typer.Option(min=1, max=50, help="How many nodes, each with a VM of its own.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Use the API server of this file, on 127.0.0.1, not the emulator."),
]
Loopback = Annotated[
    bool, typer.Option("--loopback", help="Loopback addresses for pods even where network namespaces could be made.")
]


def application(around: Surroundings) -> typer.Typer:
    """The command group."""
    names = Names(around)
    app = typer.Typer(help="A whole little cloud on this machine.", no_args_is_help=True, rich_markup_mode=None)

    @app.command("up")
    def sandbox_up(
        *,
        nodes: Nodes = 1,
        kubeconfig: Kubeconfig = None,
        loopback: Loopback = False,
        scale_set: Annotated[bool, typer.Option("--scale-set", help="Nodes are instances of one scale set.")] = False,
        operation_seconds: Annotated[float, typer.Option(min=0, help="How long ARM takes to change a VM.")] = 2.0,
        chart_values: Annotated[
            Path | None,
            typer.Option(
                dir_okay=False,
                help="Leave MIC, NMI and the custom resources to helm, and write to this file what the chart is to be "
                "told. Wants root, and --kubeconfig of an API server with controllers and a scheduler.",
            ),
        ] = None,
    ) -> None:
        """Run a sandbox until Ctrl-C, and print how to use it."""
        settings = Settings(
            nodes=nodes,
            scale_set=scale_set,
            kubeconfig=kubeconfig,
            namespaces=False if loopback else None,
            operation_seconds=operation_seconds,
            environment=around.environ,
        )
        if chart_values is not None:
            if kubeconfig is None or loopback:
                raise typer.BadParameter("--chart-values wants --kubeconfig, and no --loopback")
            _write_values(chart_values)
            settings = replace(settings, programs=False, kinds=False, schedule=False, namespaces=True)
        raise typer.Exit(asyncio.run(_up(settings, Console(highlight=False), chart_values)))

    @app.command("demo")
    def sandbox_demo(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
        kubeconfig: Kubeconfig = None,
        loopback: Loopback = False,
        federated: Annotated[
            bool, typer.Option("--federated", help="By a federated identity (type 3), which no VM ever has.")
        ] = False,
    ) -> None:
        """Show a pod get its tokens, from start to clean-up; the exit code says whether all went well."""
        settings = Settings(
            kubeconfig=kubeconfig,
            namespaces=False if loopback else None,
            environment=around.environ,
            nmi_flags=FEDERATED_NMI_FLAGS if federated else (),
        )
        run = FederatedDemo(Sandbox(settings)) if federated else Demo(Sandbox(settings))
        raise typer.Exit(asyncio.run(_demo(run, as_json=as_json)))

    @app.command("exec")
    def sandbox_exec(
        pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        command: Annotated[list[str], typer.Argument(help="The command line, after --.")],
        *,
        namespace: Annotated[str, typer.Option("-n", "--namespace", autocompletion=names.namespaces)] = "",
        kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
    ) -> None:
        """Run a command of this machine in the network of a pod of a sandbox; needs root."""
        where = asyncio.run(
            _namespace_of_pod(around.settings(kubeconfig=kubeconfig), *named(pod, namespace, "default"))
        )
        line = ["ip", "netns", "exec", where, *command]
        raise typer.Exit(subprocess.run(line, check=False).returncode)

    return app


def _write_values(path: Path) -> None:
    try:
        path.write_text(yaml.safe_dump(CHART_VALUES, sort_keys=False))
    except OSError as error:
        raise typer.BadParameter(
            f"--chart-values: {path} cannot be written ({error.strerror}): name a file in a folder that is there"
        ) from error


async def _namespace_of_pod(settings: ClusterSettings, namespace: str, name: str) -> str:
    async with reach(settings) as client:
        found = await client.get(PODS, namespace, name)
    context = of_any_sandbox(f"pod-{found.metadata.uid}")
    if not context:
        raise StartError(
            f"pod {namespace}/{name} has no network of its own on this machine: is its sandbox one of root?"
        )
    return context


async def _up(settings: Settings, console: Console, chart_values: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def pod_runs(node: str, pod: NodePod, context: ExecutionContext) -> None:
        if pod.spec.host_network:
            return
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        console.print(f"pod {escape(name)} runs on {node} at {context.address}; to ask for its token:", soft_wrap=True)
        inside = f"podidctl sandbox exec {name} -- curl" if context.prefix else f"curl --interface {context.address}"
        url = f"{sandbox.metadata_url(node)}/metadata/identity/oauth2/token?{TOKEN_QUERY}"
        command = f"{inside} -s -H Metadata:true '{url}'"
        console.print(f"  {escape(command)}", soft_wrap=True)

    sandbox = Sandbox(settings, on_pod_running=pod_runs)
    try:
        starting = asyncio.create_task(sandbox.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return 0
        starting.result()
        _introduce(sandbox, console, chart_values)
        while not stop.is_set():
            failure = sandbox.failure()
            if failure:
                return complain(failure)
            await asyncio.wait({stopping}, timeout=1.0)
        console.print("stopping")
    except FAILURES as failure:
        return complain(str(failure))
    finally:
        await sandbox.stop()
    return 0


def _introduce(sandbox: Sandbox, console: Console, chart_values: Path | None) -> None:
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
        lines += [
            f"# {name}: {' '.join(context.prefix)} iptables-save -t nat" for name, context in sandbox.contexts.items()
        ]
    else:
        lines.append(f"# {sandbox.loopback_reason}: no nat rule; pods ask NMI at {sandbox.metadata_url(node)}")
    if chart_values is not None:
        lines.append(f"# nothing of ours runs yet; what the chart is to be told: {chart_values}")
    lines.append("# try: kubectl apply -f deploy/demo/ && kubectl logs -f demo")
    console.print("The sandbox is up. Ctrl-C ends it. In another terminal:")
    for line in lines:
        console.print(f"  {escape(line)}", soft_wrap=True)


async def _demo(demo: DemoRun, *, as_json: bool) -> int:
    console = Console(highlight=False)
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
        return complain(failure)
    if not as_json:
        console.print(f"The demo went well, in {seconds:.1f} s.")
    return 0


def _emit(document: object) -> None:
    print(json.dumps(document, ensure_ascii=False), flush=True)
