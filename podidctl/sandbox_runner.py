"""The implementation of `podidctl sandbox …`. Only this module of podidctl imports the sandbox."""

import asyncio
import contextlib
import json
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import typer
import yaml
from rich.console import Console

from podidctl.commands.connection import ClusterSettings, connect
from podidctl.report.text import print_error, print_line
from podidentity.exits import StartError
from podidentity.kube.errors import AccessError, ApiError, NotFound
from podidentity.resources import PODS, IdentityType
from podidentity_sandbox import fault_control
from podidentity_sandbox.azure import CERTIFICATES, DEMO_CLIENT_ID
from podidentity_sandbox.cluster import DEMO
from podidentity_sandbox.demo import Demo, DemoError
from podidentity_sandbox.directory import DirectoryError
from podidentity_sandbox.federated_demo import BindingDemo, FederatedDemo
from podidentity_sandbox.folders import folder_of_namespace, is_running, running_folders
from podidentity_sandbox.namespaces import NamespaceError, of_any_sandbox
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.pod_projection import NodePod
from podidentity_sandbox.processes import ProgramError
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import (
    BINDING_FLAGS,
    CHART_VALUES,
    FEDERATED_FLAGS,
    TRUST_VARIABLES,
    SandboxSettings,
    given_identities,
)

TOKEN_QUERY = "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"  # noqa: S105 - no secret
FAILURES = (
    StartError,
    NamespaceError,
    ProgramError,
    AccessError,
    ApiError,
    DemoError,
    DirectoryError,
    OSError,
)


def up(
    environment: Mapping[str, str],
    *,
    nodes: int,
    kubeconfig: Path | None,
    loopback: bool,
    scale_set: bool,
    operation_seconds: float,
    federated: bool,
    identity_bindings: bool,
    chart_values: Path | None,
    identities: Sequence[str],
    principals: Sequence[str],
    system_assigned: bool,
) -> int:
    """Run a sandbox until SIGINT or SIGTERM. Return the exit code.

    *identities* and *principals* are `NAME` or `NAME=SELECTOR`. Raise typer.BadParameter for an unusable one.
    """
    try:
        given = given_identities(identities, principals, federated=federated)
    except StartError as error:
        raise typer.BadParameter(str(error)) from error
    settings = SandboxSettings(
        nodes=nodes,
        scale_set=scale_set,
        kubeconfig=kubeconfig,
        namespaces=False if loopback else None,
        operation_seconds=operation_seconds,
        daemon_pods=True,
        federated_flags=BINDING_FLAGS if identity_bindings else FEDERATED_FLAGS if federated else (),
        identities=given,
        system_assigned=system_assigned,
        environment=environment,
    )
    if chart_values is not None:
        _write_values(chart_values)
        settings = replace(settings, programs=False, kinds=False, schedule=False, namespaces=True)
    return asyncio.run(_up(settings, Console(highlight=False), chart_values))


def demo(
    environment: Mapping[str, str],
    *,
    kubeconfig: Path | None,
    loopback: bool,
    federated: bool,
    identity_bindings: bool,
    as_json: bool,
) -> int:
    """Run a demo, print its steps, and return the exit code. *identity_bindings* has an effect with *federated*
    only."""
    kind = (BindingDemo if identity_bindings else FederatedDemo) if federated else Demo
    settings = SandboxSettings(
        kubeconfig=kubeconfig,
        namespaces=False if loopback else None,
        environment=environment,
        rbac=kind.rbac,
        nmi_flags=kind.nmi_flags,
    )
    run = kind(Sandbox(settings))
    return asyncio.run(_demo(run, as_json=as_json))


def run_in_pod(
    settings: ClusterSettings, environment: Mapping[str, str], pod: tuple[str, str], command: Sequence[str]
) -> int:
    """Run a command in the network namespace of the pod (namespace, name). Return its exit code.

    Its environment is *environment* and the variables by which it trusts the sandbox's authority. Raise
    StartError if the pod has no network namespace on this machine, or the sandbox of *environment* has ended.
    """
    try:
        namespace = asyncio.run(_namespace_of_pod(settings, *pod))
    except FAILURES as error:
        sandbox = environment.get("PODIDENTITY_SANDBOX", "")
        # The failed connection alone does not show that the sandbox has ended.
        if sandbox and not is_running(Path(sandbox)):
            raise StartError(f"cannot reach the sandbox at {sandbox}: {fault_control.ENDED}") from error
        raise
    line = ["ip", "netns", "exec", namespace, *command]
    folder = folder_of_namespace(namespace)
    trust = dict.fromkeys(TRUST_VARIABLES, str(folder / CERTIFICATES)) if folder is not None else {}
    return subprocess.run(line, check=False, env={**environment, **trust}).returncode


def fault(folder: Path | None, faults: Sequence[str], *, clear: bool) -> int:
    """Set or clear faults of the sandbox in *folder* (None: the only running one), and print the active faults.

    Raise StartError.
    """
    path = (folder or _running_folder()) / fault_control.SOCKET_NAME
    wanted = {} if clear else dict(map(fault_control.split, faults))
    active = asyncio.run(fault_control.call(path, wanted=wanted, clear=faults if clear else None))
    for service, value in active.items():
        print(f"{service}={value}")
    if not active:
        print("no fault is active")
    return 0


def _running_folder() -> Path:
    folders = running_folders()
    if not folders:
        raise StartError("no sandbox of this user runs on this machine; start one: podidctl sandbox up")
    if len(folders) > 1:
        names = ", ".join(map(str, folders))
        raise StartError(f"{len(folders)} sandboxes run; name one with --sandbox: {names}")
    return folders[0]


def _write_values(path: Path) -> None:
    try:
        path.write_text(yaml.safe_dump(CHART_VALUES, sort_keys=False))
    except OSError as error:
        raise typer.BadParameter(
            f"--chart-values: cannot write {path} ({error.strerror}); name a file in an existing folder"
        ) from error


async def _namespace_of_pod(settings: ClusterSettings, namespace: str, name: str) -> str:
    async with connect(settings) as client:
        try:
            pod = await client.get(PODS, namespace, name)
        except NotFound as error:
            raise StartError(
                f"pod {namespace}/{name} does not exist; list the pods with kubectl get pods -A"
            ) from error
    network_namespace = of_any_sandbox(f"pod-{pod.metadata.uid}")
    if not network_namespace:
        raise StartError(
            f"pod {namespace}/{name} has no network namespace on this machine; "
            "run podidctl sandbox up as root with the package nftables, and without --loopback"
        )
    return network_namespace


async def _up(settings: SandboxSettings, console: Console, chart_values: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def pod_runs(node: str, pod: NodePod, context: ExecutionContext) -> None:
        if pod.spec.host_network:
            return
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        print_line(console, f"pod {name} runs on {node} at {context.address}; to ask for its token:")
        inside = f"podidctl sandbox exec {name} -- curl" if context.prefix else f"curl --interface {context.address}"
        url = f"{sandbox.metadata_url(node)}/metadata/identity/oauth2/token?{TOKEN_QUERY}"
        command = f"{inside} -s -H Metadata:true '{url}'"
        print_line(console, f"  {command}")

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
            for line in await sandbox.restart_ended():
                print_line(console, line)
            failure = sandbox.cluster_failure()
            if failure:
                return print_error(failure)
            await asyncio.wait({stopping}, timeout=1.0)
        console.print("stopping")
    except FAILURES as failure:
        return print_error(str(failure))
    finally:
        await sandbox.stop()
    return 0


def _introduce(sandbox: Sandbox, console: Console, chart_values: Path | None) -> None:
    """Print the addresses, and the variables of the documented commands as lines for a shell."""
    node = sandbox.node_names[0]
    azure = sandbox.azure
    lines = [
        *(f"export {name}={shlex.quote(value)}" for name, value in sandbox.shell_environment().items()),
        "# SSL_CERT_FILE is the authority of ARM and AAD; programs that read it trust no other HTTPS server",
        f"# ARM {azure.arm.url}  AAD {azure.aad.url}  IMDS {azure.imds.url}",
        f"# logs and configuration: {sandbox.folder}",
    ]
    if sandbox.network.redirects:
        lines += [
            f"# {name}: {shlex.join(context.command(sandbox.network_choice.listing))}"
            for name, context in sandbox.contexts.items()
        ]
    else:
        reason = sandbox.network_choice.reason
        lines.append(
            f"# {reason}: no nat rule; pods are loopback addresses and ask NMI at {sandbox.metadata_url(node)}"
        )
    kinds = {IdentityType.SECRET: "service principal", IdentityType.FEDERATED: "federated identity"}
    for given, client_id in sandbox.identities.items():
        account = f" and the service account {given.name}" if given.type == IdentityType.FEDERATED else ""
        lines.append(
            f"# {kinds.get(given.type, 'identity')} {given.name}, client id {client_id}: "
            f"for pods with the label aadpodidbinding={given.selector}{account}"
        )
    if sandbox.settings.system_assigned:
        lines.append("# each VM or scale set has a system-assigned identity, which an AzurePodIdentityException uses")
    if chart_values is not None:
        lines.append(f"# MIC and NMI do not run yet; the chart values: {chart_values}")
    if sandbox.settings.federated_flags == BINDING_FLAGS:
        lines.append(f"# identity binding of client id {DEMO_CLIENT_ID}; token proxy {azure.token_proxy.proxy_url}")
    with_azure = shlex.join(["podidctl", "plan", "--cloudconfig", str(sandbox.files.cloud_config)])
    lines.append(f"# try: {with_azure}; podidctl doctor; podidctl sandbox fault imds=500")
    lines.append(f"# try: kubectl apply -f {DEMO.resolve()} && kubectl logs -f demo")
    console.print("The sandbox is up. Ctrl-C ends it. In another terminal:")
    for line in lines:
        print_line(console, f"  {line}")


async def _demo(demo: Demo, *, as_json: bool) -> int:
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
                    _emit({"step": step.name, "answer": step.report, "seconds": round(step.seconds, 3), "ok": True})
                    continue
                print_line(console, ("✓", "green"), f" {step.name} ", (f"{step.seconds:.1f} s", "dim"))
                for line in step.report.splitlines():
                    print_line(console, f"    {line}")
    except asyncio.CancelledError:
        return 130
    except FAILURES as error:
        failure = f"{demo.doing}: {error}" if not isinstance(error, DemoError) else str(error)
    seconds = time.monotonic() - began
    if as_json:
        _emit({"ok": not failure, "seconds": round(seconds, 3), "lines": demo.lines, "error": failure or None})
    if failure:
        return print_error(failure)
    if not as_json:
        console.print(f"The demo went well, in {seconds:.1f} s.")
    return 0


def _emit(document: object) -> None:
    print(json.dumps(document, ensure_ascii=False), flush=True)
