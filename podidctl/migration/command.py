"""Definition of the commands `podidctl migrate …`. `podidctl.cli` passes the context."""

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from msgspec.structs import replace

from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect
from podidctl.commands.options import Kubeconfig, KubeContext, RequestTimeout, examples
from podidctl.migration import cluster_reader
from podidctl.migration.differences import Difference, DifferenceLevel, find_differences, manifest_differences
from podidctl.migration.federation import command as federating
from podidctl.migration.installed_programs import check_programs, check_values
from podidctl.migration.manifests import STDIN, ObjectChanges, join_manifests, read_manifests
from podidctl.migration.output import (
    change_script,
    credential_script,
    new_accounts,
    plan_document,
    print_differences,
    print_workload_identity,
)
from podidctl.migration.workload_identity import (
    WorkloadIdentityPlan,
    is_public,
    plan_workload_identity,
    unreachable_issuer,
)
from podidctl.report.text import Output, console, print_document, print_text
from podidentity.azure.federation import DIRECT_AUDIENCE
from podidentity.exits import StartError
from podidentity.report import SOMETHING_TO_DO


class WorkloadIdentityOutput(StrEnum):
    """Output format of the resources for workload identity."""

    TABLE = "table"
    YAML = "yaml"
    KUBECTL = "kubectl"
    AZ = "az"
    JSON = "json"


NO_ISSUER = (
    "the cluster does not publish the issuer of its service account tokens: pass --issuer, on AKS the output of `az "
    "aks show --query oidcIssuerProfile.issuerUrl`"
)


def add_to(program: typer.Typer, context: CliContext) -> None:
    """Add the command group to *program*."""
    app = typer.Typer(
        help="Migrate from Azure's Go implementation, from VMs to federated identities, and on to workload identity.",
        epilog=examples("podidctl migrate from-reference", "podidctl migrate plan --tenant TENANT"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    _add_from_reference(app, context)
    _add_to_workload_identity(app, context)
    federating.add_to(app, context)
    program.add_typer(app, name="migrate")


def _add_from_reference(app: typer.Typer, context: CliContext) -> None:
    @app.command(
        "from-reference",
        epilog=examples(
            "podidctl migrate from-reference", "podidctl migrate from-reference -f manifests/ -o yaml > rewritten.yaml"
        ),
    )
    def from_reference(
        *,
        files: Annotated[
            list[Path] | None,
            typer.Option(
                "-f", "--filename", help="Manifests, or directories of them; - is stdin. The cluster is not read."
            ),
        ] = None,
        values: Annotated[
            Path | None, typer.Option(help="Values of a release of Azure's chart (helm get values -o yaml).")
        ] = None,
        in_place: Annotated[bool, typer.Option("--in-place", help="Rewrite the files of -f in place.")] = False,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: Annotated[
            Output, typer.Option("-o", "--output", help="With -f, yaml prints the rewritten manifests.")
        ] = Output.TABLE,
    ) -> None:
        """Show how this version differs from Azure's Go implementation for this cluster or these files. Makes no
        changes to the cluster.

        -f … -o yaml, or --in-place, rewrites manifests in field spellings from before v1.6.0. The exit code is 0 if no
        action is needed, 3 if one is, and 1 if the state could not be read.
        """
        if in_place and (not files or STDIN in files):
            raise typer.BadParameter("--in-place requires -f with files or directories")
        differences = _of_values(values)
        if files:
            differences += _of_files(files, output, in_place=in_place)
        elif values is None:
            settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
            differences += asyncio.run(_of_cluster(settings))
        rewrote = bool(files) and output is Output.YAML
        print_differences(differences, Output.TABLE if rewrote else output, console(stderr=rewrote))
        raise typer.Exit(
            SOMETHING_TO_DO
            if any(difference.level is not DifferenceLevel.NO_ACTION for difference in differences)
            else 0
        )


def _add_to_workload_identity(app: typer.Typer, context: CliContext) -> None:
    @app.command(
        "to-workload-identity",
        epilog=examples(
            "podidctl migrate to-workload-identity -n NAMESPACE",
            "podidctl migrate to-workload-identity -n NAMESPACE -o yaml > accounts.yaml",
        ),
    )
    def to_workload_identity(
        *,
        issuer: federating.Issuer = "",
        audience: Annotated[
            str,
            typer.Option(
                help=("Audience of the federated credentials; clouds other than the public one have different ones.")
            ),
        ] = DIRECT_AUDIENCE,
        namespace: Annotated[str, typer.Option("-n", "--namespace", help="Only workloads of this namespace.")] = "",
        force_namespaced: federating.ForceNamespaced = False,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        output: Annotated[
            WorkloadIdentityOutput,
            typer.Option("-o", "--output", help="yaml has the new objects; kubectl and az are scripts."),
        ] = WorkloadIdentityOutput.TABLE,
    ) -> None:
        """Generate the resources that workload identity needs for the workloads' current identities. Makes no changes.

        -o yaml has the new ServiceAccounts, for kubectl apply. -o kubectl has the commands that change existing service
        accounts and workloads. -o az has the commands that create the federated credentials. The exit code is 0 if
        these are sufficient, 3 if manual steps remain, and 1 if the state could not be read.
        """
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        made, used_issuer = asyncio.run(_plan(settings, issuer, namespace, force_namespaced=force_namespaced))
        if output in {WorkloadIdentityOutput.AZ, WorkloadIdentityOutput.JSON} and not used_issuer:
            raise StartError(NO_ISSUER)
        _print_workload_identity(made, used_issuer, audience, output)
        raise typer.Exit(SOMETHING_TO_DO if made.by_hand else 0)


def _print_workload_identity(
    made: WorkloadIdentityPlan, issuer: str, audience: str, output: WorkloadIdentityOutput
) -> None:
    match output:
        case WorkloadIdentityOutput.TABLE:
            print_workload_identity(made, issuer, audience, console())
        case WorkloadIdentityOutput.YAML:
            print_text(new_accounts(made), console())
        case WorkloadIdentityOutput.KUBECTL:
            print_text(change_script(made), console())
        case WorkloadIdentityOutput.AZ:
            print_text(
                credential_script(made.credentials, [step.line for step in made.by_hand], issuer, audience), console()
            )
        case WorkloadIdentityOutput.JSON:
            print_document(plan_document(made, issuer, audience), Output.JSON, console())


async def _plan(
    settings: ClusterSettings, issuer: str, namespace: str, *, force_namespaced: bool
) -> tuple[WorkloadIdentityPlan, str]:
    """Return the plan, and the issuer if it is known."""
    async with connect(settings) as client:
        situation = await cluster_reader.read_workload_state(client, force_namespaced=force_namespaced)
        used_issuer = issuer or await cluster_reader.read_issuer(client)
    if not used_issuer.isprintable():
        raise StartError(f"the issuer {used_issuer!a} is not an address: pass --issuer")
    made = plan_workload_identity(situation, namespace=namespace)
    if used_issuer and not is_public(used_issuer):
        made = replace(made, by_hand=[unreachable_issuer(used_issuer), *made.by_hand])
    return made, used_issuer


def _of_files(files: list[Path], output: Output, *, in_place: bool) -> list[Difference]:
    read = read_manifests(files)
    if not any("kind" in manifest.before for manifest in read):  # every Kubernetes object has it
        names, verb = ", ".join(map(str, files)), "holds" if len(files) == 1 else "hold"
        raise StartError(f"{names} {verb} no Kubernetes objects: pass manifests or directories of them")
    rewritten = [change for manifest in read for change in manifest.changes]
    if in_place:
        for manifest in read:
            if manifest.text != manifest.before:
                manifest.path.write_bytes(manifest.text.encode())  # not as text, which would change line endings
    if output is Output.YAML:
        print_text(join_manifests(read), console())
    done = in_place or output is Output.YAML
    rewriting = [
        Difference(
            DifferenceLevel.NO_ACTION if done and not change.lost else DifferenceLevel.REVIEW,
            change.about,
            "field spellings from before v1.6.0: " + ", ".join(change.fields),
            _rewriting(change, done=done),
        )
        for change in rewritten
    ]
    return rewriting + manifest_differences(thing for manifest in read for thing in manifest.objects)


def _rewriting(change: ObjectChanges, *, done: bool) -> str:
    lost = "; ".join(change.lost)
    if done:
        return (
            f"it is rewritten; restore manually what was not preserved: {lost}" if lost else "nothing, it is rewritten"
        )
    return f"rewrite it with -o yaml or --in-place{f'; not preserved: {lost}' if lost else ''}"


def _of_values(values: Path | None) -> list[Difference]:
    if values is None:
        return []
    try:
        document: Any = yaml.safe_load(values.read_bytes())
    except RecursionError as error:
        raise StartError(f"{values} is nested too deep for helm's values: pass the file that contains them") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartError(
            f"{values} cannot be read as YAML ({' '.join(str(error).split())}): pass helm's values"
        ) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise StartError(f"{values} contains no values: it must be a map, as `helm get values -o yaml` prints it")
    return check_values(document)


async def _of_cluster(settings: ClusterSettings) -> list[Difference]:
    async with connect(settings) as client:
        installation, programs = await cluster_reader.read_installation(client)
    return find_differences(installation, check_programs(programs))
