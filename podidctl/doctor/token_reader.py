"""Reader of NMI's recent refusals: the Events `TokenRefused` of all nodes, and NMI's log on some of them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Final, TypeAlias

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
CHECKED_MAX: Final = 200
"""Pods whose existence is checked, with one GET each."""
LOGS_MAX: Final = 5
"""NMI pods whose log is read, first those with a recent Event. On other nodes every recent Event counts."""

_Refused: TypeAlias = tuple[str, str, RecentRefusal]
"""Pod (`namespace/name`), its uid, and the refusal."""


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
    latest = sorted(refused, key=lambda each: each[2].at, reverse=True)
    found: list[RefusedPod] = []
    for pod, uid, refusal in _by_turns(latest)[:CHECKED_MAX]:
        if len(found) < PODS_MAX and await _runs(client, pod, uid):
            found.append(RefusedPod(pod, refusal))
    return tuple(found)


def _by_turns(latest: Iterable[_Refused]) -> list[_Refused]:
    """Return the latest refusal of each namespace, then the second of each, and so on.

    Anyone with permission to create Events in one namespace can write any number of them, with any time.
    """
    by_namespace: defaultdict[str, list[_Refused]] = defaultdict(list)
    for each in latest:
        by_namespace[each[0].partition("/")[0]].append(each)
    return [each for several in zip_longest(*by_namespace.values()) for each in several if each is not None]


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
