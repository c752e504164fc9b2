"""Definition of the command `podidctl access`."""

import asyncio
from dataclasses import replace
from typing import Annotated

import typer

from mic.preview.survey import reached
from mic.startup.settings import Settings
from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.gather import gather, read_azure
from podidctl.access.outputs import AccessOutput, render
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Scope
from podidctl.access.scope import KINDS, ScopeError
from podidctl.cluster_access import CLOUDCONFIG_HELP, KUBECONFIG_HELP, NAME_PATTERN, CliContext, connect
from podidctl.printing import console
from podidentity.exits import StartError
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("access")
    def _access(
        kind: Annotated[str, typer.Argument(help="identity, pod, node or namespace. Default: the cluster.")] = "",
        name: Annotated[
            str, typer.Argument(help="Its name; NAMESPACE/NAME for a pod or an identity. Default namespace: default.")
        ] = "",
        *,
        kubeconfig: Annotated[str, typer.Option(help=KUBECONFIG_HELP)] = "",
        cloudconfig: Annotated[str, typer.Option(help=CLOUDCONFIG_HELP)] = "",
        output: Annotated[AccessOutput, typer.Option("-o", "--output", help="Output format.")] = AccessOutput.TABLE,
    ) -> None:
        """Show which pod can use which Azure identity, and how far one taken-over pod or node reaches.

        The exit code is 0, or 1 if a part could not be read.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kubeconfig=kubeconfig, cloudconfig=cloudconfig)
        found = asyncio.run(_review(settings, parse_scope(kind, name), ask_azure=bool(cloudconfig)))
        render(found, output, console())
        raise typer.Exit(int(bool(found.unknown)))


def parse_scope(kind: str, name: str, usual: str = "default") -> Scope:
    """Return the scope on the command line. Raises typer.BadParameter."""
    if not kind:
        return Scope()
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!a} is not one of {', '.join(KINDS)}")
    namespaced = kind in {"identity", "pod"}
    before, slash, bare = name.rpartition("/")
    parts = (before, bare) if slash and namespaced else (name,)
    if not all(map(NAME_PATTERN.fullmatch, parts)):
        form = "NAMESPACE/NAME" if namespaced else "NAME"
        raise typer.BadParameter(f"{name!a} is not the name of a {kind}; write: podidctl access {kind} {form}")
    return Scope(kind=kind, name=f"{usual}/{name}" if namespaced and not slash else name)


async def _review(settings: Settings, scope: Scope, *, ask_azure: bool) -> AccessReview:
    """Return the review. Raises StartError."""
    objects = await _read(settings, ask_azure=ask_azure)
    try:
        return review(objects, scope)
    except ScopeError as error:
        raise StartError(str(error)) from error


async def _read(settings: Settings, *, ask_azure: bool) -> ClusterObjects:
    async with connect(settings) as client:
        objects = await gather(client)
    if not ask_azure:
        return objects
    async with reached(settings) as (own, azure):
        return replace(objects, azure=await read_azure(objects, azure, own))
