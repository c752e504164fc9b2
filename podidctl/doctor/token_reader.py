"""Reader of NMI's recent refusals: the Events `TokenRefused` of all nodes, and NMI's log on some of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from nmi.pod_events import TOKEN_REFUSED
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import COMPONENT_PREFIX, EVENTS, or_failure, read_log
from podidctl.diagnosis.input import Event, ReadFailure
from podidctl.diagnosis.nmi_log import LoggedDecision, decisions_by_pod
from podidctl.diagnosis.recent_refusals import RecentRefusal, logged_refusal, unresolved_event
from podidctl.doctor.state import RefusedPod
from podidentity.kube.client import Client
from podidentity.kube.errors import NotFound
from podidentity.resources import PODS

PODS_MAX: Final = 50
"""Refused pods that are reported."""
LOGS_MAX: Final = 5
"""NMI pods whose log is read, first those with a recent Event. On other nodes every recent Event counts."""


async def refused_pods(client: Client, nmi: Sequence[Daemon] | ReadFailure, now: datetime) -> tuple[RefusedPod, ...]:
    """Return the existing pods whose last known request NMI refused. Raises ApiError."""
    events = await client.list(EVENTS, field_selector=f"reason={TOKEN_REFUSED}")
    recent: dict[tuple[str, str], list[Event]] = {}
    for each in sorted(events, key=lambda event: event.at, reverse=True):
        about = each.involved_object
        if each.component.startswith(COMPONENT_PREFIX) and unresolved_event([each], (), now) is not None:
            recent.setdefault((f"{about.namespace}/{about.name}", about.uid), []).append(each)
    nodes = {each.source.host for several in recent.values() for each in several}
    daemons = [] if isinstance(nmi, ReadFailure) else sorted(nmi, key=lambda each: each.spec.node_name not in nodes)
    decisions: dict[tuple[str, str], tuple[LoggedDecision, ...]] = {}
    for daemon in daemons[:LOGS_MAX]:
        log = await or_failure(read_log(client, daemon))
        decisions |= {} if isinstance(log, ReadFailure) else decisions_by_pod(log)
    refused = [
        (*key, refusal)
        for key in recent.keys() | decisions.keys()
        if (refusal := _refusal(recent.get(key, ()), decisions.get(key, ()), now)) is not None
    ]
    latest = sorted(refused, key=lambda each: each[2].at, reverse=True)[:PODS_MAX]
    return tuple([RefusedPod(pod, refusal) for pod, uid, refusal in latest if await _runs(client, pod, uid)])


def _refusal(events: Sequence[Event], decisions: Sequence[LoggedDecision], now: datetime) -> RecentRefusal | None:
    return logged_refusal(decisions, now) or unresolved_event(events, decisions, now)


async def _runs(client: Client, name: str, uid: str) -> bool:
    """Return whether this incarnation of the pod still runs."""
    namespace, _, bare = name.partition("/")
    try:
        pod = await client.get(PODS, namespace, bare)
    except NotFound:
        return False
    return pod.metadata.uid == uid and not pod.finished
