"""Shell completion of names of namespaces, nodes, pods and AzureIdentities, read from the cluster with a short timeout.

Completion must never block a shell or print an error into its command line, so every failure returns no candidates.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import typer

from podidctl.commands.connection import NAME_PATTERN, CliContext, ClusterSettings, connect
from podidentity.exits import StartError
from podidentity.resources import IDENTITIES, NODES, PODS, Kind, Resource

NAMESPACES: Final = Kind("Namespace", "namespaces", Resource, namespaced=False)
SECONDS: Final = 3.0
NAMES_MAX: Final = "500"


class _ObjectList(msgspec.Struct):
    items: list[Resource] = []


class ClusterNames:
    """Completion candidates from the cluster that the command line so far selects."""

    def __init__(self, context: CliContext, *, seconds: float = SECONDS) -> None:
        """*seconds* is the time limit for the API server's response."""
        self._context = context
        self._seconds = seconds

    def namespaces(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the namespaces that begin with *incomplete*."""
        return self._cluster_scoped(ctx, incomplete, NAMESPACES)

    def nodes(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the nodes that begin with *incomplete*."""
        return self._cluster_scoped(ctx, incomplete, NODES)

    def pods(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the pods that begin with *incomplete*: names in the given namespace, else `namespace/name`."""
        return self._namespaced(ctx, incomplete, PODS)

    def of(self, kind: Kind[Any], ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the objects of *kind* that begin with *incomplete*, as `pods` returns pods."""
        return (self._namespaced if kind.namespaced else self._cluster_scoped)(ctx, incomplete, kind)

    def identities(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the AzureIdentities that begin with *incomplete*, as `pods` returns pods."""
        return self._namespaced(ctx, incomplete, IDENTITIES)

    def of_kind(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the names of objects of the kind in the argument `kind`; none for another kind."""
        by_kind = {
            "identity": self.identities,
            "pod": self.pods,
            "node": self.nodes,
            "namespace": self.namespaces,
        }
        complete = by_kind.get(str(ctx.params.get("kind") or ""))
        return complete(ctx, incomplete) if complete is not None else []

    def _cluster_scoped(self, ctx: typer.Context, incomplete: str, kind: Kind[Any]) -> list[str]:
        return sorted(name for _, name in self._request_keys(ctx, kind.path()) if name.startswith(incomplete))

    def _namespaced(self, ctx: typer.Context, incomplete: str, kind: Kind[Any]) -> list[str]:
        namespace = str(ctx.params.get("namespace") or "")
        before, slash, _ = incomplete.partition("/")
        within = namespace or (before if slash else "")
        if within and not NAME_PATTERN.fullmatch(within):
            return []
        keys = self._request_keys(ctx, kind.path(within))
        names = (key[1] if namespace else "/".join(key) for key in keys)
        return sorted(name for name in names if name.startswith(incomplete))

    def _request_keys(self, ctx: typer.Context, path: str) -> Iterable[tuple[str, str]]:
        try:
            kubeconfig, kube_context = (str(ctx.params.get(name) or "") for name in ("kubeconfig", "kube_context"))
            settings = self._context.settings(kube_context, kubeconfig=kubeconfig)
            return asyncio.run(_list_keys(settings, path, self._seconds))
        except (StartError, typer.BadParameter, TimeoutError, OSError, msgspec.DecodeError):
            return ()


async def _list_keys(settings: ClusterSettings, path: str, seconds: float) -> list[tuple[str, str]]:
    async with asyncio.timeout(seconds), connect(settings) as client:
        response = await client.request("GET", path, params={"limit": NAMES_MAX})
    return [item.key for item in msgspec.json.decode(response, type=_ObjectList).items]
