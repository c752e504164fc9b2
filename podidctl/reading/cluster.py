"""Reader of the whole cluster: custom resources, pods and nodes once each, the definitions, the locks, and the
permissions of the service accounts.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from mic.startup.object_upgrade import KINDS, with_current_names
from mic.startup.settings import Settings as MicSettings
from nmi.settings import Settings as NmiSettings
from podidctl.evaluation.needs import needed_identities
from podidctl.facts.kinds import (
    CILIUM_NODES,
    DATED_PODS,
    DEFINITIONS,
    EVENTS,
    PLACED_NODES,
    Daemon,
    DatedPod,
    Definition,
    parse_time,
)
from podidctl.facts.model import (
    REASONS,
    RULE_EVENTS_MAX,
    RULES_LABEL,
    ClusterState,
    IdentityKey,
    Locks,
    ObjectReference,
    Objects,
    ReadFailure,
    RuleMonitor,
    SecretCheck,
    ServerState,
    StoredObjects,
    readable,
)
from podidctl.facts.settings import (
    NO_NODE,
    genuine_mic,
    genuine_nmi,
    readable_configurations,
    readable_mic_settings,
)
from podidctl.reading.daemons import counts_old_field_names, list_daemons, refused_pods
from podidctl.reading.requests import clock_difference, or_failure
from podidctl.reading.reviews import (
    read_daemon_uses,
    read_federated_access,
    read_rights,
    read_secret_access,
    read_secret_checks,
)
from podidctl.report.text import by_turns
from podidentity.kube.client import Client
from podidentity.kube.decoding import OLD_FIELDS_MAX, Malformed, decode_meta, decode_object, shallow
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, Unauthorized
from podidentity.kube.lock_records import ENDPOINTS, LEASES, AnnotationFormat, LeaseFormat, LockFormat, LockRecord
from podidentity.kube.paths import object_path
from podidentity.old_field_names import old_fields
from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL, BINDINGS, EXCEPTIONS, IDENTITIES, Kind, Resource

R = TypeVar("R", bound=Resource)
VERSION_SECONDS: Final = 10.0
BODY_MAX: Final = 1 << 16
_DOCUMENT: Final = msgspec.json.Decoder(dict[str, Any])
NODE_EVENTS_NAMESPACE: Final = "default"
"""The namespace of Events about nodes."""


async def read_cluster(client: Client) -> ClusterState:
    """Return the cluster's state. Raises ApiError if the API server does not respond or rejects the credentials."""
    server = await or_failure(_server(client))
    nmi = await or_failure(_nmi(client))
    mic = await or_failure(_mic(client, readable(nmi)))
    objects, stored = await _objects(
        client,
        await counts_old_field_names(client, readable(nmi), readable(mic)),
    )
    now = datetime.now(UTC)
    return ClusterState(
        now=now,
        server=server,
        definitions={each.plural: await or_failure(_definition(client, each)) for each in KINDS},
        stored=stored,
        objects=objects,
        nmi=nmi,
        mic=mic,
        locks=await or_failure(_locks(client, readable(mic))),
        rights=await or_failure(read_rights(client, nmi, mic)),
        secrets=await or_failure(read_secret_access(client, objects, nmi)),
        credentials=await or_failure(_credentials(client, objects, nmi)),
        refused=await or_failure(refused_pods(client, nmi, _now_of(server))),
        federation=await read_federated_access(client, objects, nmi),
        daemon_uses=await read_daemon_uses(client, objects, nmi, mic),
        rule_monitor=await read_rule_monitor(client),
    )


async def _credentials(
    client: Client, objects: Objects | ReadFailure, nmi: tuple[Daemon, ...] | ReadFailure
) -> Mapping[IdentityKey, SecretCheck]:
    """Return the checks of the Secrets, by the settings of the first NMI whose flags can be read."""
    if isinstance(objects, ReadFailure):
        return {}
    rules = readable_configurations(readable(nmi))
    settings = rules[0].settings if rules else NmiSettings(node_name=NO_NODE)
    needed = needed_identities(objects)
    in_turn = by_turns(objects.identities, lambda each: (each.key not in needed, each.metadata.namespace))
    return await read_secret_checks(client, settings, sorted(in_turn, key=lambda each: each.key not in needed))


async def _nmi(client: Client) -> tuple[Daemon, ...]:
    return tuple(genuine_nmi(await list_daemons(client, "nmi")))


async def _mic(client: Client, nmi: Sequence[Daemon]) -> tuple[Daemon, ...]:
    return tuple(genuine_mic(await list_daemons(client, "mic"), nmi))


class _Version(msgspec.Struct):
    git_version: str = msgspec.field(name="gitVersion", default="")


async def _server(client: Client) -> ServerState:
    """Return the version, and the clock by the response's Date. Raises NoResponse."""
    access = client.access
    authorization = await access.authorization()
    headers = {"Authorization": authorization} if authorization else {}
    limit = aiohttp.ClientTimeout(total=VERSION_SECONDS)
    loop = asyncio.get_running_loop()
    try:
        async with aiohttp.ClientSession(timeout=limit, trust_env=False, headers=headers) as session:
            sent, began = datetime.now(UTC), loop.time()
            async with session.get(
                f"{access.server}/version",
                ssl=access.ssl or True,
                server_hostname=access.server_hostname,
                proxy=access.proxy,
                allow_redirects=False,
            ) as answer:
                seconds = loop.time() - began
                date = answer.headers.get("Date", "")
                body = await _read_body(answer.content)
    except TimeoutError as error:
        raise NoResponse(f"no response from {access.server} within {VERSION_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        raise NoResponse(f"cannot reach {access.server}: {str(cause) or type(cause).__name__}") from error
    try:
        version = msgspec.json.decode(body, type=_Version).git_version
    except (msgspec.DecodeError, UnicodeDecodeError):
        version = ""
    return server_clock(version, date, sent, seconds)


async def _read_body(content: aiohttp.StreamReader) -> bytes:
    """Return the body, which may arrive in parts, up to BODY_MAX and a part."""
    body = b""
    async for part in content.iter_any():
        body += part
        if len(body) > BODY_MAX:
            break
    return body


def server_clock(version: str, date: str, sent: datetime, seconds: float) -> ServerState:
    """Return the server's state from the Date of a response to a request that was *sent* then and took *seconds*."""
    ahead = clock_difference(date, sent, seconds)
    return ServerState(version) if ahead is None else ServerState(version, ahead.total_seconds(), seconds / 2 + 0.5)


def _now_of(server: ServerState | ReadFailure) -> datetime:
    """Return the time by the server's clock; by this machine's if the server's is not known."""
    ahead = None if isinstance(server, ReadFailure) else server.ahead_seconds
    return datetime.now(UTC) + timedelta(seconds=ahead or 0.0)


async def _definition(client: Client, kind: Kind[Any]) -> Definition | None:
    try:
        return await client.get(DEFINITIONS, "", f"{kind.plural}.{kind.group}")
    except NotFound:
        return None


async def _objects(
    client: Client, counts: Mapping[str, bool | ReadFailure]
) -> tuple[Objects | ReadFailure, dict[str, StoredObjects]]:
    """Return the custom resources and their stored form. A kind that is not installed has no objects; another check
    reports it.
    """
    stored: dict[str, StoredObjects] = {}
    made: dict[ObjectReference, datetime] = {}
    assigned = await _read_kind(client, ASSIGNED_IDENTITIES, counts, stored, made)
    identities = await _read_kind(client, IDENTITIES, counts, stored, made)
    bindings = await _read_kind(client, BINDINGS, counts, stored, made)
    exceptions = await _read_kind(client, EXCEPTIONS, counts, stored, made)
    pods = await or_failure(client.list(DATED_PODS, label_selector=BINDING_LABEL))
    nodes = await or_failure(client.list(PLACED_NODES))
    for each in (assigned, identities, bindings, exceptions, pods, nodes):
        if isinstance(each, ReadFailure):
            return each, stored
    dates = made | (pod_times(pods) if not isinstance(pods, ReadFailure) else {})
    there = Objects(*map(_tuple, (identities, bindings, exceptions, assigned, pods, nodes)))
    return replace(there, created_at=dates), stored


def _tuple(several: Any) -> Any:
    return tuple(several)


async def _read_kind(
    client: Client,
    kind: Kind[R],
    counts: Mapping[str, bool | ReadFailure],
    stored: dict[str, StoredObjects],
    made: dict[ObjectReference, datetime],
) -> list[R] | ReadFailure:
    items: list[R] = []
    old: list[str] = []
    unreadable: list[str] = []
    client.old_field_names = counts[kind.plural] is True
    try:
        async for page in client.pages(kind):
            if page.first:
                items, old, unreadable = [], [], []
            unreadable += [f"{each.meta.namespace}/{each.meta.name}" for each in page.skipped]
            for raw in page.items:
                try:
                    items.append(decode_object(kind, raw, old_field_names=client.old_field_names))
                except Malformed:
                    unreadable.append("/".join(_key(raw)))
                    continue
                if (since := creation_time(raw)) is not None:
                    made[ObjectReference(kind.plural, *items[-1].key)] = since
                if with_current_names(kind, document := _document(raw)) is not None:
                    fields = ", ".join(islice(old_fields(document, kind.shape), OLD_FIELDS_MAX))
                    old.append("/".join(items[-1].key) + (f" ({fields})" if fields else ""))
    except NotFound:
        return []
    except (NoResponse, Unauthorized):
        raise
    except ApiError as error:
        return ReadFailure(f"{kind.plural}: {error.message}", is_forbidden=isinstance(error, Forbidden))
    stored[kind.plural] = StoredObjects(tuple(old), tuple(unreadable))
    return items


def _key(raw: msgspec.Raw) -> tuple[str, str]:
    meta = decode_meta(raw)
    return meta.namespace, meta.name


def _document(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        return _DOCUMENT.decode(raw)
    except RecursionError:
        return _DOCUMENT.decode(shallow(bytes(raw)))


async def _locks(client: Client, mic: Sequence[Daemon]) -> tuple[Locks, ...]:
    """Return the locks of every name that a MIC uses, or of the default name if no MIC was found."""
    usual = MicSettings(namespace="default")
    names = {(each.lease_namespace, each.lease_name): None for each in readable_mic_settings(mic)}
    found = []
    for namespace, name in names or {(usual.lease_namespace, usual.lease_name): None}:
        lease = await _lock_record(client, LeaseFormat(), LEASES, namespace, name)
        endpoints = await _lock_record(client, AnnotationFormat(), ENDPOINTS, namespace, name)
        found.append(Locks(namespace, name, lease, endpoints))
    return tuple(found)


async def _lock_record(client: Client, by: LockFormat, kind: Kind[Any], namespace: str, name: str) -> LockRecord | None:
    try:
        return by.read(_document(msgspec.Raw(await client.request("GET", object_path(kind, namespace, name)))))
    except NotFound:
        return None


class _Meta(msgspec.Struct):
    creation: str = msgspec.field(name="creationTimestamp", default="")


class _DatedObject(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


_DECODER: Final = msgspec.json.Decoder(_DatedObject)


def creation_time(raw: msgspec.Raw) -> datetime | None:
    """Return the creation time of a readable object, or None."""
    try:
        return parse_time(_DECODER.decode(raw).metadata.creation)
    except (msgspec.DecodeError, RecursionError):
        return None


def pod_times(pods: Iterable[DatedPod]) -> dict[ObjectReference, datetime]:
    """Return since when each pod is on its node."""
    return {ObjectReference("pods", *each.key): since for each in pods if (since := each.since) is not None}


async def read_rule_monitor(client: Client) -> RuleMonitor:
    """Return the reports. Raises NoResponse."""
    with_rules = await or_failure(_with_rules(client))
    found = await or_failure(_rule_events(client))
    if isinstance(found, ReadFailure):
        return RuleMonitor(with_rules, found)
    more = frozenset(reason for reason, (_, complete) in found.items() if not complete)
    return RuleMonitor(with_rules, {reason: names for reason, (names, _) in found.items()}, more)


async def _with_rules(client: Client) -> frozenset[str]:
    try:
        found = await client.list(CILIUM_NODES, label_selector=f"{RULES_LABEL}=true")
    except NotFound:
        return frozenset()  # without Cilium
    return frozenset(each.metadata.name for each in found)


async def _rule_events(client: Client) -> dict[str, tuple[frozenset[str], bool]]:
    return {reason: await _nodes_of(client, reason) for reason in REASONS}


async def _nodes_of(client: Client, reason: str) -> tuple[frozenset[str], bool]:
    """Return the nodes in the Events of *reason*, and whether all of these were read."""
    names: set[str] = set()
    read = 0
    async for page in client.pages(
        EVENTS, NODE_EVENTS_NAMESPACE, field_selector=f"reason={reason},involvedObject.kind=Node"
    ):
        if page.first:
            names, read = set(), 0
        for raw in page.items:
            read += 1
            try:
                names.add(decode_object(EVENTS, raw).involved_object.name)
            except Malformed:
                continue
        if read >= RULE_EVENTS_MAX:
            return frozenset(names), False
    return frozenset(names), True
