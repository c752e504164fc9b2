"""The way to the cluster that a command asks about: as for `podidctl plan`, with the same advice where it fails."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from mic.preview.survey import advice
from mic.startup.settings import Settings
from podidctl.plan import settings
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError
from podidentity.version import VERSION

KUBECONFIG_HELP = "A kubeconfig; without it KUBECONFIG, the pod's service account, or kubectl's own."
NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)
"""What pods and namespaces can be called: an empty name would ask for the list of all."""
CLOUDCONFIG_HELP = "azure.json: ask Azure too. Without it Azure is not asked."


@dataclass(frozen=True, slots=True)
class CliContext:
    """What `cli` knows of where it runs; nobody below it reads the environment."""

    environ: Mapping[str, str]
    home: Callable[[], Path]
    """The user's own folder."""

    def settings(self, **flags: object) -> Settings:
        """A MIC's settings with these flags: where the cluster is, and Azure. Raises typer.BadParameter."""
        try:
            return settings(
                ((name.replace("_", "-"), value) for name, value in flags.items()), self.environ, self.home()
            )
        except UsageError as wrong:
            raise typer.BadParameter(str(wrong)) from wrong


@asynccontextmanager
async def connect(found: Settings) -> AsyncIterator[Client]:
    """The API server that *found* leads to. An AccessError or ApiError of whoever uses it becomes a StartError."""
    try:
        cluster = await access.find(found.kubeconfig, found.cluster_environment)
        async with Client(cluster, user_agent=f"podidctl/{VERSION}") as client:
            yield client
    except AccessError as error:
        raise StartError(str(error)) from error
    except ApiError as error:
        raise StartError(advice(error)) from error


def parse_pod_name(name: str, namespace: str, usual: str) -> tuple[str, str]:
    """Namespace and name out of `NS/NAME`, or `NAME` with *namespace* or else *usual*. Raises typer.BadParameter."""
    before, slash, after = name.rpartition("/")
    if not all(map(NAME_PATTERN.fullmatch, (before, after) if slash else (after,))):
        raise typer.BadParameter(f"{name!a} is no pod's name; write NAMESPACE/NAME, or NAME with -n NAMESPACE")
    if namespace and not NAME_PATTERN.fullmatch(namespace):
        raise typer.BadParameter(f"-n {namespace!a} is no namespace's name; see kubectl get namespaces")
    if not slash:
        return namespace or usual, name
    if namespace not in {"", before}:
        raise typer.BadParameter(f"{name!r} and -n {namespace} name two namespaces; leave one out")
    return before, after
