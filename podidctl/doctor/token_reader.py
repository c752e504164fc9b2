"""Reader of NMI's recent refusals: the Events `TokenRefused` of all nodes, and NMI's log on some of them."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from nmi.pod_events import TOKEN_REFUSED
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import COMPONENT_PREFIX, EVENTS, or_failure, read_log
from podidctl.diagnosis.input import Event, ReadFailure
from podidctl.diagnosis.nmi_log import LoggedDecision, decisions_by_pod
from podidctl.diagnosis.recent_refusals import RecentRefusal, logged_refusal, unresolved_event
from podidctl.doctor.state import RefusedPod
from podidctl.fair_order import by_turns, namespace_of
from podidentity.kube.client import Client
from podidentity.kube.decoding import Malformed, decode_object
from podidentity.kube.errors import NotFound
from podidentity.resources import PODS

PODS_MAX: Final = 50
"""Refused pods that are reported."""
CHECKED_MAX: Final = 200
"""Pods whose existence is checked, with one GET each."""
EVENTS_MAX: Final = 500
"""Recent Events of one namespace that are kept, the latest ones. Anyone with permission to create Events in a namespace
can write any number of them, with any time.
"""
LOGS_MAX: Final = 5
"""NMI pods whose log is read, first those with a recent Event. On other nodes every recent Event counts."""


async def refused_pods(client: Client, nmi: Sequence[Daemon] | ReadFailure, now: datetime) -> tuple[RefusedPod, ...]:
    """Return the existing pods whose last known request NMI refused. Raises ApiError."""
    recent: dict[tuple[str, str], list[Event]] = {}
    for each in await _recent_events(client, now):
        about = each.involved_object
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
    latest = sorted(refused, key=lambda each: each[2].at, reverse=True)
    checked = by_turns(latest, lambda each: namespace_of(each[0]))[:CHECKED_MAX]
    runs = await in_batches(partial(_runs, client, pod, uid) for pod, uid, _ in checked)
    found = [RefusedPod(pod, refusal) for (pod, _, refusal), there in zip(checked, runs, strict=True) if there]
    return tuple(found[:PODS_MAX])


async def _recent_events(client: Client, now: datetime) -> list[Event]:
    """Return the Events of recent refusals, latest first, at most EVENTS_MAX of each namespace. Raises ApiError."""
    found: defaultdict[str, list[Event]] = defaultdict(list)
    async for page in client.pages(EVENTS, field_selector=f"reason={TOKEN_REFUSED}"):
        if page.first:
            found.clear()
        for raw in page.items:
            try:
                event = decode_object(EVENTS, raw)
            except Malformed:
                continue
            if event.component.startswith(COMPONENT_PREFIX) and unresolved_event([event], (), now) is not None:
                several = found[event.involved_object.namespace]
                several.append(event)
                if len(several) >= 2 * EVENTS_MAX:
                    several[:] = _latest(several)
    return sorted((each for several in found.values() for each in _latest(several)), key=_time, reverse=True)


def _latest(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=_time, reverse=True)[:EVENTS_MAX]


def _time(event: Event) -> str:
    return event.at


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
