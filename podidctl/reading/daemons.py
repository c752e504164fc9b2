"""Reader of the pods of NMI and MIC: their list, logs and metrics, the field names that they count, and the pods whose
tokens NMI refused.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from mic.decisions.documents import APPLY_ERROR
from mic.startup.type_upgrade import UpgradeRecord
from nmi.pod_events import TOKEN_REFUSED
from podidctl.evaluation.needs import CHECKED_MAX
from podidctl.evaluation.refusals import is_recent, logged_refusal, unresolved_event
from podidctl.facts.kinds import COMPONENT_PREFIX, DAEMONS, EVENTS, LABELS, Daemon, Event
from podidctl.facts.model import Facts, PodKey, ReadFailure, RecentRefusal, readable
from podidctl.facts.nmi_log import parse_decisions
from podidctl.facts.settings import (
    genuine_nmi,
    is_managed,
    nmi_settings,
    readable_configurations,
    readable_mic_settings,
)
from podidctl.reading.requests import in_batches, or_failure, or_late, or_none
from podidctl.report.documents import LoggedDecision
from podidctl.report.text import by_turns, grouped, namespace_of
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.kube.decoding import Malformed, decode_object
from podidentity.kube.errors import ApiError, Forbidden, NoResponse
from podidentity.kube.paths import object_path
from podidentity.report import plain
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, PODS

UPGRADE_RECORD_RIGHT: Final = "get on MIC's configmap aad-pod-identity-config"
T = TypeVar("T")
READ_SECONDS: Final = 5.0
CONCURRENT_MAX: Final = 16
REFUSED_PODS_MAX: Final = 50
"""Refused pods that are reported."""
REFUSALS_MAX: Final = 500
"""Recent Events of one namespace that are kept, the latest ones. Anyone with permission to create Events in a namespace
can write any number of them, with any time.
"""
LOGS_MAX: Final = 5
"""NMI pods whose log is read, first those with a recent Event. On other nodes every recent Event counts."""
LINES_READ: Final = 5_000
"""Lines from the end of the log: some hours of one node, up to two megabytes."""


async def list_daemons(client: Client, component: str, *, node: str = "") -> list[Daemon]:
    """Return the pods of *component* (`nmi` or `mic`), with *node* only the ones on that node. Raises ApiError."""
    daemons: dict[tuple[str, str], Daemon] = {}
    field = f"spec.nodeName={node}" if node else ""
    for label in LABELS:
        for daemon in await client.list(DAEMONS, field_selector=field, label_selector=f"{label}={component}"):
            if daemon.status.phase not in {"Succeeded", "Failed"}:
                daemons[daemon.key] = daemon
    return [daemons[key] for key in sorted(daemons)]


async def read_log(client: Client, daemon: Daemon, program: str = "nmi", **limits: int) -> str:
    """Return the last LINES_READ lines of *program*'s log within *limits* of the API server. Raises ApiError."""
    container = daemon.container(program)
    # A pod may have further containers, and then the API server requires the name of one.
    params = {"container": container.name if container is not None else "", "tailLines": str(LINES_READ)}
    params |= {name: str(number) for name, number in limits.items()}
    log = await client.request("GET", object_path(PODS, *daemon.key, "log"), params=params)
    return log.decode(errors="replace")


async def read_decisions(client: Client, daemon: Daemon) -> Mapping[PodKey, tuple[LoggedDecision, ...]]:
    """Return the latest decisions about each pod in NMI's log, as `parse_decisions`. Raises ApiError."""
    # The parser takes half a second, in which other responses must not seem late.
    return await asyncio.to_thread(parse_decisions, await read_log(client, daemon))


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
    slots = asyncio.Semaphore(CONCURRENT_MAX)

    async def read(daemon: Daemon) -> T:
        async with slots:
            return use(daemon, await read_page(client, daemon))

    daemons = genuine_nmi(await list_daemons(client, "nmi"))
    tasks = [asyncio.create_task(read(daemon)) for daemon in daemons]
    try:
        late = (await asyncio.wait(tasks, timeout=within_seconds))[1] if tasks else ()
    finally:
        for task in tasks:
            task.cancel()
    # The cancelled requests must have ended before the caller closes the client.
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


async def refused_pods(client: Client, facts: Facts) -> dict[str, RecentRefusal]:
    """Return the existing pods (namespace/name) whose last known request NMI refused. Raises ApiError."""
    now = facts.server_time
    recent = await _recent_events(client, TOKEN_REFUSED, now)
    nodes = {event.source.host for several in recent.values() for event in several}
    daemons = sorted(readable(facts.nmi), key=lambda daemon: daemon.spec.node_name not in nodes)
    decisions: dict[PodKey, tuple[LoggedDecision, ...]] = {}
    for logged in await in_batches(partial(_decisions, client, daemon) for daemon in daemons[:LOGS_MAX]):
        # Without the log the Events still count.
        decisions |= {} if isinstance(logged, ReadFailure) else logged
    refused = [
        (*key, refusal)
        for key in dict.fromkeys((*recent, *decisions))
        # Without a uid, nothing shows that the refusal is about the pod that runs now.
        if key[1] and (refusal := _refusal_of(recent.get(key, ()), decisions.get(key, ()), now)) is not None
    ]
    latest = sorted(refused, key=lambda entry: entry[2].at, reverse=True)
    # Events that one tenant forges do not use up the checks of others' pods.
    checked = by_turns(latest, lambda entry: namespace_of(entry[0]))[:CHECKED_MAX]
    runs = await in_batches(partial(_runs, client, pod, uid) for pod, uid, _ in checked)
    existing = [(pod, refusal) for (pod, _, refusal), there in zip(checked, runs, strict=True) if there]
    return dict(existing[:REFUSED_PODS_MAX])


async def _decisions(client: Client, daemon: Daemon) -> Mapping[PodKey, tuple[LoggedDecision, ...]] | ReadFailure:
    return await or_late(read_decisions(client, daemon))


async def unassigned_pods(client: Client, facts: Facts) -> Mapping[PodKey, tuple[Event, ...]]:
    """Return MIC's recent Events about identities that it has not assigned, by pod. Raises ApiError."""
    recent = await _recent_events(client, APPLY_ERROR, facts.server_time)
    return {pod: tuple(events) for pod, events in recent.items()}


async def _recent_events(client: Client, reason: str, now: datetime) -> Mapping[PodKey, list[Event]]:
    """Return the recent Events of NMI and MIC about pods with this *reason*, latest first, at most REFUSALS_MAX of each
    namespace. Raises ApiError.
    """
    by_namespace: defaultdict[str, list[Event]] = defaultdict(list)
    async for page in client.pages(EVENTS, field_selector=f"involvedObject.kind=Pod,reason={reason}"):
        # A list that begins again, because its token has expired, replaces what was read before.
        if page.first:
            by_namespace.clear()
        for raw in page.items:
            try:
                event = decode_object(EVENTS, raw)
            except Malformed:
                continue
            if event.component.startswith(COMPONENT_PREFIX) and is_recent(event, now):
                several = by_namespace[event.involved_object.namespace]
                several.append(event)
                # To sort for each Event would take quadratic time.
                if len(several) >= 2 * REFUSALS_MAX:
                    several[:] = _latest(several)
    latest = sorted(
        (event for several in by_namespace.values() for event in _latest(several)), key=_event_time, reverse=True
    )
    abouts = ((event.involved_object, event) for event in latest)
    return grouped(((f"{about.namespace}/{about.name}", about.uid), event) for about, event in abouts)


def _latest(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=_event_time, reverse=True)[:REFUSALS_MAX]


def _event_time(event: Event) -> str:
    return event.at


def _refusal_of(events: Sequence[Event], decisions: Sequence[LoggedDecision], now: datetime) -> RecentRefusal | None:
    return logged_refusal(decisions, now) or unresolved_event(events, decisions, now)


async def _runs(client: Client, name: str, uid: str) -> bool:
    """Return whether this incarnation of the pod still runs."""
    namespace, _, bare = name.partition("/")
    pod = await or_none(client.get(PODS, namespace, bare))
    return pod is not None and pod.metadata.uid == uid and not pod.finished


async def counts_old_field_names(client: Client, facts: Facts) -> Mapping[str, bool | ReadFailure]:
    """Return by plural whether the program that decides by the kind counts such fields. Raises NoResponse."""
    nmi = readable_configurations(readable(facts.nmi))
    by_nmi = any(configuration.settings.read_old_field_names for configuration in nmi)
    by_mic = by_nmi if is_managed(nmi) else await _by_mic(client, readable(facts.mic))
    return {
        ASSIGNED_IDENTITIES.plural: by_nmi,
        EXCEPTIONS.plural: by_nmi,
        IDENTITIES.plural: by_mic,
        BINDINGS.plural: by_mic,
    }


async def _by_mic(client: Client, mic: Sequence[Daemon]) -> bool | ReadFailure:
    settings = next(iter(readable_mic_settings(mic)), None)
    if settings is None:
        return ReadFailure("no pod of MIC has readable flags", is_forbidden=False)
    if settings.read_old_field_names:
        return True
    record = UpgradeRecord(client, settings.namespace, settings.upgrade_config_map, settings.upgrade_key)
    version = await or_failure(record.read())
    return version if isinstance(version, ReadFailure) else version is None
