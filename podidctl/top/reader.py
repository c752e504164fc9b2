"""Reader of the metrics of all NMIs, through the API server's proxy to a port of a pod.

Requires the permissions `list` on pods and `get` on `pods/proxy`. Each read is bounded in time, size and concurrency.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from podidctl.facts.kinds import Daemon
from podidctl.reading.daemons import MetricsPage, Unread, read_pages
from podidctl.top.counters import UnreadableMetricsError, parse
from podidctl.top.rates import Reading
from podidentity.kube.client import Client
from podidentity.report import plain


@dataclass(frozen=True, slots=True)
class NodeReading:
    """The result for one NMI."""

    node: str
    result: Reading | Unread


async def read_all(client: Client, clock: Callable[[], float] = time.monotonic) -> list[NodeReading]:
    """Return one result for each pod of NMI, in order of node and pod. Raises ApiError if the pods cannot be listed."""

    def use(daemon: Daemon, page: MetricsPage | Unread) -> NodeReading:
        return NodeReading(daemon.spec.node_name, _reading(daemon, page, clock))

    found = await read_pages(client, use)
    return sorted(found, key=lambda each: (each.node, each.result.pod))


def _reading(daemon: Daemon, page: MetricsPage | Unread, clock: Callable[[], float]) -> Reading | Unread:
    if isinstance(page, Unread):
        return page
    try:
        counters = parse(page.text)
    except UnreadableMetricsError as error:
        return Unread(daemon.name, plain(f"{error}; check that port {page.port} is NMI's --prometheus-port"))
    return Reading(daemon.name, daemon.metadata.uid, clock(), counters)


def by_uid(readings: list[NodeReading]) -> Mapping[str, Reading]:
    """Return the successful reads by the uid of NMI's pod."""
    return {each.result.uid: each.result for each in readings if isinstance(each.result, Reading)}
