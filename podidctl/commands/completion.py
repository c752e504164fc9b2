"""Shell completion of names of objects, read from the cluster with a short timeout.

Completion must never block a shell or print an error into its command line, so every failure returns no candidates.
"""

import asyncio
import contextlib
import io
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import typer

from podidctl.commands.connection import NAME_PATTERN, CliContext, ClusterSettings, connect
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
        return self.of(NAMESPACES, ctx, incomplete)

    def nodes(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the nodes that begin with *incomplete*."""
        return self.of(NODES, ctx, incomplete)

    def pods(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the pods that begin with *incomplete*."""
        return self.of(PODS, ctx, incomplete)

    def of_kind(self, ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the names of objects of the kind in the argument `kind`; none for another kind."""
        kinds: dict[str, Kind[Any]] = {"identity": IDENTITIES, "pod": PODS, "node": NODES, "namespace": NAMESPACES}
        kind = kinds.get(str(ctx.params.get("kind") or ""))
        return self.of(kind, ctx, incomplete) if kind is not None else []

    def of(self, kind: Kind[Any], ctx: typer.Context, incomplete: str) -> list[str]:
        """Return the objects of *kind* that begin with *incomplete*: `namespace/name`, or names in the given namespace
        and of a kind without namespaces.
        """
        namespace = str(ctx.params.get("namespace") or "") if kind.namespaced else ""
        before, slash, _ = incomplete.partition("/")
        within = namespace or (before if slash else "")
        # The text becomes a part of the request's path.
        if within and not NAME_PATTERN.fullmatch(within):
            return []
        keys = self._request_keys(ctx, kind.path(within))
        names = (key[1] if namespace or not kind.namespaced else "/".join(key) for key in keys)
        # A shell interprets what a response, which may not be the API server's, has in place of a name.
        valid = (name for name in names if all(map(NAME_PATTERN.fullmatch, name.split("/"))))
        return sorted(name for name in valid if name.startswith(incomplete))

    def _request_keys(self, ctx: typer.Context, path: str) -> Iterable[tuple[str, str]]:
        # Python's logging writes warnings to stderr.
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
            kubeconfig, kube_context = (str(ctx.params.get(name) or "") for name in ("kubeconfig", "kube_context"))
            settings = self._context.settings(kube_context, kubeconfig=kubeconfig)
            with asyncio.Runner(loop_factory=_Loop) as runner:
                return runner.run(_list_keys(settings, path, self._seconds))
        return ()


class _Loop(asyncio.SelectorEventLoop):
    async def shutdown_default_executor(  # type: ignore[explicit-override]  # typing.override is newer than Python 3.11
        self, timeout: float | None = None
    ) -> None:
        """Do not wait for a thread, which may be resolving a name for longer than a shell should wait."""


async def _list_keys(settings: ClusterSettings, path: str, seconds: float) -> list[tuple[str, str]]:
    async with asyncio.timeout(seconds), connect(settings) as client:
        response = await client.request("GET", path, params={"limit": NAMES_MAX})
    return [item.key for item in msgspec.json.decode(response, type=_ObjectList).items]
