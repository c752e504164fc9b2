"""Reader of the metrics of all NMIs, through the API server's proxy to a port of a pod.

Requires the permissions `list` on pods and `get` on `pods/proxy`. Each read is bounded in time, size and concurrency.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from podidctl.diagnosis.daemons import Daemon, genuine_nmi, list_daemons, nmi_settings
from podidctl.printing import plain
from podidctl.top.counters import UnreadableMetricsError, parse
from podidctl.top.rates import Reading
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, NoResponse
from podidentity.kube.paths import object_path
from podidentity.resources import PODS

READ_SECONDS: Final = 5.0
CONCURRENT_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Unread:
    """An NMI whose metrics could not be read."""

    pod: str
    problem: str


@dataclass(frozen=True, slots=True)
class NodeReading:
    """The result for one NMI."""

    node: str
    result: Reading | Unread


async def read_all(client: Client, clock: Callable[[], float] = time.monotonic) -> list[NodeReading]:
    """Return one result for each pod of NMI, in order of node and pod. Raises ApiError if the pods cannot be listed."""
    places = asyncio.Semaphore(CONCURRENT_MAX)
    daemons = genuine_nmi(await list_daemons(client, "nmi"))

    async def read(daemon: Daemon) -> NodeReading:
        async with places:
            return NodeReading(daemon.spec.node_name, await _read_one(client, daemon, clock))

    found = await asyncio.gather(*map(read, daemons))
    return sorted(found, key=lambda each: (each.node, each.result.pod))


async def _read_one(client: Client, daemon: Daemon, clock: Callable[[], float]) -> Reading | Unread:
    name, namespace = daemon.metadata.name, daemon.metadata.namespace
    try:
        port = nmi_settings(daemon).metrics_port
    except UsageError as error:
        return Unread(daemon.name, plain(f"its flags cannot be read: {error}"))
    try:
        path = object_path(PODS, namespace, f"{name}:{port}", "proxy") + "/metrics"
        body = await client.request("GET", path, timeout_seconds=READ_SECONDS)
        counters = parse(body.decode("utf-8", "replace"))
    except ApiError as error:
        return Unread(daemon.name, plain(_advice(error, daemon)))
    except UnreadableMetricsError as error:
        return Unread(daemon.name, plain(f"{error}; check that port {port} is NMI's --prometheus-port"))
    return Reading(daemon.name, daemon.metadata.uid, clock(), counters)


def _advice(error: ApiError, daemon: Daemon) -> str:
    """Return the cause and the next action."""
    if isinstance(error, Forbidden):
        return f"not allowed: grant get on pods/proxy in namespace {daemon.metadata.namespace} ({error.message})"
    if isinstance(error, NoResponse):
        return f"{error.message}; the API server may not reach the node's network"
    if not daemon.ready:
        return f"NMI is not ready ({daemon.not_ready_reason}): see kubectl logs -n {daemon.metadata.namespace}"
    return f"the API server cannot read the metrics: {error}"


def by_uid(readings: list[NodeReading]) -> Mapping[str, Reading]:
    """Return the successful reads by the uid of NMI's pod."""
    return {each.result.uid: each.result for each in readings if isinstance(each.result, Reading)}
