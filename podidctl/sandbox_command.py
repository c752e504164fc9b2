"""`podidctl sandbox …`: its flags. The implementation is in `sandbox_runner`, which needs the extra `sandbox`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from podidctl.commands import options
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, parse_pod_name
from podidctl.commands.options import examples
from podidentity.exits import StartError, installation

EXTRA_MODULES: Final = ("cryptography", "httptools", "iptc", "requests", "podidentity_sandbox")
"""Modules that podidctl does not need without the sandbox. One of them is missing where the extra is not installed."""

Nodes = Annotated[int, typer.Option(min=1, max=50, help="Number of nodes, each with its own VM.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Use the API server of this file, on 127.0.0.1, not the emulator."),
]
Loopback = Annotated[
    bool, typer.Option("--loopback", help="Use loopback addresses for pods even where network namespaces are possible.")
]


def add_to(program: typer.Typer, context: CliContext) -> None:
    """Add the command group to *program*."""
    app = typer.Typer(
        help="An API server, IMDS, AAD and Azure Resource Manager on this machine, with MIC, NMI and pods.",
        epilog=examples("podidctl sandbox demo"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )

    @app.callback()
    def sandbox() -> None:
        # The first test is necessary: for a module of a missing package, find_spec raises an error.
        if find_spec("_native") is None or find_spec("_native.lane") is None:
            raise StartError(
                "the sandbox runs NMI, whose compiled modules this installation omits: with a C compiler, and without "
                f"NATIVE_OMIT, run {installation('sandbox')}"
            )
        missing = [name for name in EXTRA_MODULES if find_spec(name) is None]
        if missing:
            raise StartError(f"the sandbox needs {', '.join(missing)}, not installed here: {installation('sandbox')}")

    _add_up(app, context)
    _add_demo(app, context)
    _add_exec(app, context)
    _add_fault(app, context)
    program.add_typer(app, name="sandbox")


def _add_up(app: typer.Typer, context: CliContext) -> None:
    @app.command("up", epilog=examples("podidctl sandbox up", "podidctl sandbox up --nodes 3 --identity NAME"))
    def sandbox_up(
        *,
        nodes: Nodes = 1,
        kubeconfig: Kubeconfig = None,
        loopback: Loopback = False,
        scale_set: Annotated[bool, typer.Option("--scale-set", help="Nodes are instances of one scale set.")] = False,
        operation_seconds: Annotated[
            float, typer.Option(min=0, help="Seconds that Resource Manager needs to change a VM.")
        ] = 2.0,
        federated: Annotated[
            bool,
            typer.Option(
                "--federated",
                help="NMI serves identities of type 3; create one with the name and selector federated, which trusts "
                "the service account federated in the namespace default.",
            ),
        ] = False,
        identity_bindings: Annotated[
            bool,
            typer.Option(
                "--identity-bindings",
                help="NMI gets tokens of identities of type 3 from the sandbox's token proxy (AKS identity bindings).",
            ),
        ] = False,
        identity: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME[=SELECTOR]",
                help="Create a user-assigned identity, and its AzureIdentity and AzureIdentityBinding in the namespace "
                "default. Pods with the label aadpodidbinding=SELECTOR (by default NAME) get it. Repeatable.",
            ),
        ] = None,
        service_principal: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME[=SELECTOR]",
                help="Create a service principal, and its AzureIdentity (type 1), Secret and AzureIdentityBinding. "
                "Repeatable.",
            ),
        ] = None,
        system_assigned: Annotated[
            bool, typer.Option("--system-assigned", help="Each VM or scale set has a system-assigned identity.")
        ] = False,
        chart_values: Annotated[
            Path | None,
            typer.Option(
                dir_okay=False,
                help="Start neither MIC nor NMI and install no custom resources; write the chart values for this "
                "sandbox to this file. Needs root, and --kubeconfig of an API server with controllers and a scheduler.",
            ),
        ] = None,
    ) -> None:
        """Run a sandbox until Ctrl-C, and print how to use it."""
        from podidctl import sandbox_runner  # noqa: PLC0415  needs the extra

        if chart_values is not None and (kubeconfig is None or loopback):
            raise typer.BadParameter("--chart-values requires --kubeconfig and excludes --loopback")
        if chart_values is not None and identity_bindings:
            raise typer.BadParameter(
                "--chart-values excludes --identity-bindings: set federated.exchange in the values"
            )
        if federated and identity_bindings:
            raise typer.BadParameter("--federated excludes --identity-bindings: an identity has one form of trust")
        if chart_values is not None and (identity or service_principal or federated):
            raise typer.BadParameter(
                "--chart-values excludes --identity, --service-principal and --federated, because the chart installs "
                "their kinds"
            )
        code = sandbox_runner.up(
            context.environ,
            nodes=nodes,
            kubeconfig=kubeconfig,
            loopback=loopback,
            scale_set=scale_set,
            operation_seconds=operation_seconds,
            federated=federated,
            identity_bindings=identity_bindings,
            chart_values=chart_values,
            identities=identity or (),
            principals=service_principal or (),
            system_assigned=system_assigned,
        )
        raise typer.Exit(code)


def _add_demo(app: typer.Typer, context: CliContext) -> None:
    @app.command("demo", epilog=examples("podidctl sandbox demo", "podidctl sandbox demo --federated"))
    def sandbox_demo(
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
        kubeconfig: Kubeconfig = None,
        loopback: Loopback = False,
        federated: Annotated[
            bool, typer.Option("--federated", help="Use a federated identity (type 3), which is never on a VM.")
        ] = False,
        identity_bindings: Annotated[
            bool, typer.Option("--identity-bindings", help="With --federated: use AKS identity bindings.")
        ] = False,
    ) -> None:
        """Run the demo from start to clean-up. The exit code is 0 if every step succeeds."""
        from podidctl import sandbox_runner  # noqa: PLC0415  needs the extra

        if identity_bindings and not federated:
            raise typer.BadParameter("--identity-bindings needs --federated")
        code = sandbox_runner.demo(
            context.environ,
            kubeconfig=kubeconfig,
            loopback=loopback,
            federated=federated,
            identity_bindings=identity_bindings,
            as_json=as_json,
        )
        raise typer.Exit(code)


def _add_exec(app: typer.Typer, context: CliContext) -> None:
    names = ClusterNames(context)

    @app.command("exec", epilog=examples("podidctl sandbox exec NAMESPACE/POD -- az login --identity"))
    def sandbox_exec(
        pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        command: Annotated[list[str], typer.Argument(help="The command line, after --.")],
        *,
        namespace: Annotated[str, typer.Option("-n", "--namespace", autocompletion=names.namespaces)] = "",
        kubeconfig: options.Kubeconfig = "",
        kube_context: options.KubeContext = "",
        request_timeout: options.RequestTimeout = REQUEST_TIMEOUT,
    ) -> None:
        """Run a command of this machine in the network namespace of a sandbox pod. Needs root.

        The command resolves the public names of Azure's services, and trusts the sandbox's certificate authority.
        """
        from podidctl import sandbox_runner  # noqa: PLC0415  needs the extra

        key = parse_pod_name(pod, namespace, "default")
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        raise typer.Exit(sandbox_runner.run_in_pod(settings, context.environ, key, command))


def _add_fault(app: typer.Typer, context: CliContext) -> None:
    @app.command("fault", epilog=examples("podidctl sandbox fault imds=500 arm=2s", "podidctl sandbox fault --clear"))
    def sandbox_fault(
        faults: Annotated[
            list[str] | None,
            typer.Argument(
                help="SERVICE=VALUE, such as imds=500, arm=429, api=hang, aad=2s or arm=no-role. SERVICE is imds, "
                "arm, aad, proxy or api; VALUE is an HTTP status from 400 to 599, hang, or a delay, for imds also "
                "guest-proxy, for arm no-role, no-identity or no-vm, for aad no-credential, and for proxy unbound, "
                "audience, server-name, certificate or certificate-name. With --clear: SERVICE.",
            ),
        ] = None,
        *,
        clear: Annotated[bool, typer.Option("--clear", help="Remove the faults of these services, or all.")] = False,
        sandbox: Annotated[
            Path | None,
            typer.Option(help="The folder of the sandbox; by default PODIDENTITY_SANDBOX, or the only one that runs."),
        ] = None,
    ) -> None:
        """Make a service of a running sandbox fail; print the active faults."""
        from podidctl import sandbox_runner  # noqa: PLC0415  needs the extra

        given = context.environ.get("PODIDENTITY_SANDBOX", "")
        folder = sandbox or (Path(given) if given else None)
        raise typer.Exit(sandbox_runner.fault(folder, faults or (), clear=clear))
