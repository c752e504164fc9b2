"""Reads of /metrics of NMI's pods, through the API server's proxy to a port of a pod.

Requires the permissions `list` on pods and `get` on `pods/proxy`. Each read is bounded in time, concurrency and, by the
client, in size.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from podidctl.diagnosis.daemons import Daemon, genuine_nmi, list_daemons, nmi_settings
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, NoResponse
from podidentity.kube.paths import object_path
from podidentity.report import plain
from podidentity.resources import PODS

T = TypeVar("T")

READ_SECONDS: Final = 5.0
CONCURRENT_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The untrusted text of a page, and the port that it is from."""

    text: str
    port: int


@dataclass(frozen=True, slots=True)
class Unread:
    """An NMI whose metrics could not be read."""

    pod: str
    problem: str


async def read_pages(
    client: Client, use: Callable[[Daemon, MetricsPage | Unread], T], within_seconds: float | None = None
) -> list[T]:
    """Return the result of *use* for the page of each NMI, called when the page has come. Raises ApiError if the pods
    cannot be listed.

    A page that has not come *within_seconds* is Unread.
    """
    places = asyncio.Semaphore(CONCURRENT_MAX)

    async def read(daemon: Daemon) -> T:
        async with places:
            return use(daemon, await read_page(client, daemon))

    daemons = genuine_nmi(await list_daemons(client, "nmi"))
    tasks = [asyncio.create_task(read(each)) for each in daemons]
    try:
        late = (await asyncio.wait(tasks, timeout=within_seconds))[1] if tasks else ()
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    too_late = Unread("", f"no response within {within_seconds or 0:g} s")
    return [
        use(daemon, too_late) if task in late else task.result() for daemon, task in zip(daemons, tasks, strict=True)
    ]


async def read_page(client: Client, daemon: Daemon) -> MetricsPage | Unread:
    """Return the page of one NMI, or the reason and the next action."""
    name, namespace = daemon.metadata.name, daemon.metadata.namespace
    try:
        port = nmi_settings(daemon).metrics_port
    except UsageError as error:
        return Unread(daemon.name, plain(f"its flags cannot be read: {error}"))
    path = object_path(PODS, namespace, f"{name}:{port}", "proxy") + "/metrics"
    try:
        body = await client.request("GET", path, timeout_seconds=READ_SECONDS)
    except ApiError as error:
        return Unread(daemon.name, plain(_advice(error, daemon)))
    return MetricsPage(body.decode("utf-8", "replace"), port)


def _advice(error: ApiError, daemon: Daemon) -> str:
    """Return the cause and the next action."""
    if isinstance(error, Forbidden):
        return f"not allowed: grant get on pods/proxy in namespace {daemon.metadata.namespace} ({error.message})"
    if isinstance(error, NoResponse):
        return f"{error.message}; the API server may not reach the node's network"
    if not daemon.ready:
        return f"NMI is not ready ({daemon.not_ready_reason}): see kubectl logs -n {daemon.metadata.namespace}"
    return f"the API server cannot read the metrics: {error}"
