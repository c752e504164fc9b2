"""Definition of the commands `podidctl migrate plan|apply|rollback`. `podidctl.cli` passes the environment."""

import asyncio
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext
from podidctl.commands.options import Kubeconfig, KubeContext, OutputFormat, RequestTimeout, examples
from podidctl.migration.federation.azure_resources import (
    PRINCIPAL,
    AzureOptions,
    azure_plan,
    parse_cluster,
)
from podidctl.migration.federation.output import manifests, print_outcomes, print_plan
from podidctl.migration.federation.planning_input import PlanOptions
from podidctl.migration.federation.resource_formats import az_script, bicep, service_operator_objects, terraform
from podidctl.migration.federation.runs import MigrationRun
from podidctl.migration.federation.schema import ApplicationState, ChangeOutcome, FederationPlan
from podidctl.migration.federation.token_tests import RESOURCE
from podidctl.report.text import Output, console, listed, print_document, print_line, print_text
from podidentity.azure.clouds import Cloud, CloudError, of_environment
from podidentity.azure.federation import Exchange
from podidentity.exits import StartError
from podidentity.report import SOMETHING_TO_DO

FOLLOW_SECONDS = 120.0


class PlanOutput(StrEnum):
    """Output format of a plan."""

    TABLE = "table"
    AZ = "az"
    TERRAFORM = "terraform"
    BICEP = "bicep"
    ASO = "aso"
    MANIFESTS = "manifests"
    JSON = "json"
    YAML = "yaml"


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAMESPACE/IDENTITY]...", help="AzureIdentities; default: all."),
]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Only AzureIdentities of this namespace.")]
Tenant = Annotated[str, typer.Option(help="The identities' tenant: az account show --query tenantId.")]
Issuer = Annotated[
    str, typer.Option(help=("The cluster's OIDC issuer. Default: the issuer that the API server publishes."))
]
Audience = Annotated[
    str, typer.Option(help=("Audience of the federated credentials. Default: NMI's --federated-audience."))
]
ForceNamespaced = Annotated[
    bool,
    typer.Option("--force-namespaced", help=("Same as MIC's --forceNamespaced. Default: the installed MIC's setting.")),
]
ExchangeOption = Annotated[
    Exchange | None,
    typer.Option(
        help="Exchange of all identities: federated credentials (direct) or AKS identity bindings (identityBindings). "
        "Default: the exchange by which NMI serves each of them."
    ),
]
Cluster = Annotated[
    str, typer.Option(help="The cluster's resource id on Azure, for identity bindings: az aks show --query id.")
]
NameSuffix = Annotated[
    str,
    typer.Option(
        help="Suffix of the credentials' names, such as the cluster's name, if several clusters use one identity."
    ),
]
GrantTo = Annotated[
    str,
    typer.Option(
        help="Object id of the service principal or managed identity that creates the resources: also plan its role "
        "assignments."
    ),
]
Applications = Annotated[
    bool, typer.Option("--workload-identity", help="Change applications for workload identity, instead of identities.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Make the changes. Without it, only show them.")]
Timeout = Annotated[
    float, typer.Option(min=1, max=3600, help="Time limit in seconds for MIC's update or an application's rollout.")
]
IgnoreUses = Annotated[
    bool,
    typer.Option(
        "--ignore-application-credentials",
        help="Also switch identities whose tokens an application has used as its credential (api://AzureADTokenExchange).",
    ),
]


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the three commands to *app*."""
    _add_plan(app, context)
    _add_apply(app, context)
    _add_rollback(app, context)


def _add_plan(app: typer.Typer, context: CliContext) -> None:
    @app.command(
        "plan",
        epilog=examples(
            "podidctl migrate plan --tenant TENANT", "podidctl migrate plan --tenant TENANT -o az > credentials.sh"
        ),
    )
    def plan(
        names: Names = None,
        *,
        namespace: Namespace = "",
        tenant: Tenant = "",
        issuer: Issuer = "",
        audience: Audience = "",
        exchange: ExchangeOption = None,
        cluster: Cluster = "",
        grant_to: GrantTo = "",
        name_suffix: NameSuffix = "",
        workload_identity: Annotated[
            bool, typer.Option("--workload-identity", help="Also show the remaining steps to workload identity.")
        ] = False,
        force_namespaced: ForceNamespaced = False,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: Annotated[
            PlanOutput,
            typer.Option("-o", "--output", help="az is a script; aso and manifests are for kubectl apply."),
        ] = PlanOutput.TABLE,
    ) -> None:
        """Show the steps that make identities of type 0 federated (type 3), and the obstacles. Makes no changes.

        -o az, terraform, bicep and aso have the resources to create on Azure: federated credentials or identity
        bindings, and role assignments. -o manifests has the objects that other namespaces need. The exit code is 0 if
        no step remains, 3 if one does, and 1 if the state could not be read.
        """
        azure = _azure_options(cluster, grant_to)
        run = MigrationRun(
            settings=context.settings(kube_context, request_timeout, kubeconfig=kubeconfig),
            options=PlanOptions(_cloud(context.environ), tenant, issuer, audience, exchange, name_suffix),
            force_namespaced=force_namespaced,
            names=names or (),
            namespace=namespace,
        )
        made = asyncio.run(run.plan(workload_identity=workload_identity))
        _print_plan(made, output, azure, applications=workload_identity)
        left = any(not step.is_federated for step in made.steps)
        left = left or any(application.state is not ApplicationState.DONE for application in made.applications)
        raise typer.Exit(SOMETHING_TO_DO if left else 0)


def _azure_options(cluster: str, principal: str) -> AzureOptions:
    """Return the options for Azure. Raises StartError."""
    parsed = parse_cluster(cluster.strip()) if cluster else None
    if cluster and parsed is None:
        raise StartError(f"--cluster {cluster!a} is not the resource id of an AKS cluster: az aks show --query id")
    if principal and not PRINCIPAL.fullmatch(principal.lower()):
        raise StartError(f"--grant-to {principal!a} is not an object id: az ad sp show --query id")
    return AzureOptions(parsed, principal.lower())


def _print_plan(made: FederationPlan, output: PlanOutput, options: AzureOptions, *, applications: bool) -> None:
    """Print the plan. Raises StartError if the resources for Azure need a value that is not known."""
    match output:
        case PlanOutput.TABLE:
            print_plan(made, console(), applications=applications)
        case PlanOutput.MANIFESTS:
            print_text(manifests(made.steps), console())
        case PlanOutput.JSON | PlanOutput.YAML:
            print_document(made, Output(output.value), console())
        case _:
            print_text(_azure_document(made, output, options), console())


def _azure_document(made: FederationPlan, output: PlanOutput, options: AzureOptions) -> str:
    if any(step.credentials for step in made.steps) and not made.issuer:
        raise StartError("the cluster does not publish the issuer of its service account tokens: pass --issuer")
    bound = [step.full_name for step in made.steps if step.exchange is Exchange.IDENTITY_BINDINGS]
    if bound and options.cluster is None:
        raise StartError(
            f"identity bindings (of {listed(bound, 3)}) need the resource id of the cluster: pass --cluster (az aks "
            "show --query id)"
        )
    azure = azure_plan(made, options)
    match output:
        case PlanOutput.TERRAFORM:
            return terraform(azure)
        case PlanOutput.ASO:
            return service_operator_objects(azure)
        case PlanOutput.BICEP:
            return bicep(azure)
        case _:
            return az_script(made, azure)


def _add_apply(app: typer.Typer, context: CliContext) -> None:
    @app.command(
        "apply",
        epilog=examples(
            "podidctl migrate apply --tenant TENANT NAMESPACE/IDENTITY",
            "podidctl migrate apply --tenant TENANT --yes NAMESPACE/IDENTITY",
        ),
    )
    def apply(
        names: Names = None,
        *,
        yes: Yes = False,
        workload_identity: Applications = False,
        namespace: Namespace = "",
        tenant: Tenant = "",
        audience: Audience = "",
        exchange: ExchangeOption = None,
        resource: Annotated[str, typer.Option(help="Audience of the token that is requested as a test.")] = RESOURCE,
        timeout: Timeout = FOLLOW_SECONDS,
        ignore_application_credentials: IgnoreUses = False,
        untested: Annotated[
            bool, typer.Option("--untested", help="Also switch identities whose exchange only a pod can test.")
        ] = False,
        force_namespaced: ForceNamespaced = False,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Make identities federated, one at a time, each after a successful token test. Makes no changes without --yes.

        With --workload-identity it changes applications whose identity is federated: the annotations of their service
        account and the label of their pods. The exit code is 0 if no step remains, 3 if one does, and 1 if the state
        could not be read.
        """
        cloud, ignored = _cloud(context.environ), ignore_application_credentials
        run = MigrationRun(
            settings=context.settings(kube_context, request_timeout, kubeconfig=kubeconfig),
            options=PlanOptions(cloud, tenant, "", audience, exchange, ignore_uses=ignored),
            force_namespaced=force_namespaced,
            names=names or (),
            namespace=namespace,
            timeout=timeout,
            yes=yes,
            report=_progress_printer(output),
            untested=untested,
        )
        work = run.applications() if workload_identity else run.identities(resource, context.environ)
        _end(asyncio.run(work), output, dry=not yes)


def _add_rollback(app: typer.Typer, context: CliContext) -> None:
    @app.command(
        "rollback",
        epilog=examples(
            "podidctl migrate rollback NAMESPACE/IDENTITY", "podidctl migrate rollback --yes NAMESPACE/IDENTITY"
        ),
    )
    def rollback(
        names: Names = None,
        *,
        yes: Yes = False,
        workload_identity: Applications = False,
        namespace: Namespace = "",
        timeout: Timeout = FOLLOW_SECONDS,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Undo the changes of apply, except for fields that were changed since. Makes no changes without --yes.

        The exit code is 0 if no step remains, 3 if one does, and 1 if the state could not be read.
        """
        run = MigrationRun(
            settings=context.settings(kube_context, request_timeout, kubeconfig=kubeconfig),
            options=PlanOptions(_cloud(context.environ)),
            names=names or (),
            namespace=namespace,
            timeout=timeout,
            yes=yes,
            report=_progress_printer(output),
        )
        work = run.rollback_applications() if workload_identity else run.rollback_identities()
        _end(asyncio.run(work), output, dry=not yes)


def _cloud(environ: Mapping[str, str]) -> Cloud:
    file = environ.get("AZURE_ENVIRONMENT_FILEPATH", "")
    try:
        return of_environment(Path(file) if file else None)
    except CloudError as error:
        raise StartError(str(error)) from error


def _progress_printer(output: Output) -> Callable[[str], None]:
    """Return a printer of progress lines, on stderr if stdout has a document for programs."""
    to = console(stderr=output is not Output.TABLE)
    return partial(print_line, to)


def _end(done: list[ChangeOutcome], output: Output, *, dry: bool) -> None:
    if output is Output.TABLE:
        print_outcomes(done, console(), dry=dry)
    else:
        document: dict[str, Any] = {"dryRun": dry, "outcomes": done}
        print_document(document, output, console())
    raise typer.Exit(0 if all(outcome.is_success for outcome in done) else SOMETHING_TO_DO)
