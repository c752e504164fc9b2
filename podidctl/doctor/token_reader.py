"""Reader of NMI's recent `TokenRefused` Events, and of its log for grants that resolve them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from nmi.pod_events import TOKEN_REFUSED
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import COMPONENT_PREFIX, EVENTS, or_failure, read_log
from podidctl.diagnosis.input import Event, InvolvedObject, ReadFailure
from podidctl.diagnosis.nmi_log import parse_decisions
from podidctl.diagnosis.recent_refusals import RecentRefusal, unresolved_event
from podidctl.doctor.state import RefusedPod
from podidentity.kube.client import Client
from podidentity.kube.errors import NotFound
from podidentity.resources import PODS

PODS_MAX: Final = 50
"""Pods with a recent Event that are examined."""
LOGS_MAX: Final = 5
"""Nodes whose NMI log is read. On other nodes every recent Event counts."""


async def refused_pods(client: Client, nmi: Sequence[Daemon] | ReadFailure, now: datetime) -> tuple[RefusedPod, ...]:
    """Return the existing pods whose last known request NMI refused. Raises ApiError."""
    events = await client.list(EVENTS, field_selector=f"reason={TOKEN_REFUSED}")
    recent: dict[InvolvedObject, list[Event]] = {}
    for each in sorted(events, key=lambda event: event.at, reverse=True):
        if each.source.component.startswith(COMPONENT_PREFIX) and unresolved_event([each], (), now) is not None:
            recent.setdefault(each.involved_object, []).append(each)
    reader = _PodReader(client, {} if isinstance(nmi, ReadFailure) else {each.spec.node_name: each for each in nmi})
    found = []
    for about, several in islice(recent.items(), PODS_MAX):
        refusal = await reader.refusal(about, several, now)
        if refusal is not None:
            found.append(RefusedPod(f"{about.namespace}/{about.name}", refusal))
    return tuple(found)


class _PodReader:
    def __init__(self, client: Client, daemons: Mapping[str, Daemon]) -> None:
        """*daemons*: NMI's pods by node."""
        self._client = client
        self._daemons = daemons
        self._logs: dict[str, str] = {}

    async def refusal(self, about: InvolvedObject, events: Sequence[Event], now: datetime) -> RecentRefusal | None:
        """Return the refusal of the pod's last known request; None for a pod that does not exist any more."""
        try:
            pod = await self._client.get(PODS, about.namespace, about.name)
        except NotFound:
            return None
        if pod.metadata.uid != about.uid or pod.finished:
            return None
        log = await self._log(pod.spec.node_name)
        return unresolved_event(events, parse_decisions(log, "/".join(pod.key), about.uid), now)

    async def _log(self, node: str) -> str:
        """Return the log of the node's NMI; empty if it is not read."""
        if node in self._daemons and node not in self._logs and len(self._logs) < LOGS_MAX:
            log = await or_failure(read_log(self._client, self._daemons[node]))
            self._logs[node] = "" if isinstance(log, ReadFailure) else log
        return self._logs.get(node, "")
