"""Reader of the state that the checks need: custom resources, pods and nodes once each, the definitions, the locks, and
the permissions of the service accounts (SubjectAccessReviews, which the API server does not store).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from mic.startup.settings import Settings as MicSettings
from mic.startup.spellings import KINDS, respelled
from mic.startup.type_upgrade import UpgradeRecord
from nmi.settings import Settings as NmiSettings
from podidctl.diagnosis.access_reviews import is_allowed, service_account_of
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon, genuine_mic, genuine_nmi, list_daemons
from podidctl.diagnosis.gather import NO_NODE, or_failure
from podidctl.diagnosis.input import IdentityKey, ReadFailure, SecretCheck, readable
from podidctl.diagnosis.node_placement import PLACED_NODES
from podidctl.diagnosis.secrets import read_secret_checks
from podidctl.diagnosis.server_time import clock_difference
from podidctl.doctor.creation_times import DATED_PODS, creation_time, pod_times
from podidctl.doctor.daemon_use_reader import read_daemon_uses
from podidctl.doctor.ebpf_host_routing_reader import read_rule_monitor
from podidctl.doctor.federated_access import read_federated_access
from podidctl.doctor.old_field_names import counts_old_field_names
from podidctl.doctor.programs import is_managed, mic_settings, readable_configurations
from podidctl.doctor.rights import mic_rights, nmi_rights, upgrade_rights
from podidctl.doctor.secret_access import secret_access
from podidctl.doctor.secrets import needed_identities
from podidctl.doctor.state import (
    ClusterState,
    Definition,
    Locks,
    ObjectReference,
    Objects,
    Right,
    Rights,
    ServerState,
    StoredObjects,
)
from podidctl.doctor.token_reader import refused_pods
from podidctl.fair_order import by_turns
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.kube.decoding import OLD_FIELDS_MAX, Malformed, decode_meta, decode_object, shallow
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, Unauthorized
from podidentity.kube.lock_records import ENDPOINTS, LEASES, AnnotationFormat, LeaseFormat, LockFormat, LockRecord
from podidentity.kube.paths import object_path
from podidentity.old_field_names import old_fields
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    Kind,
    Resource,
)

R = TypeVar("R", bound=Resource)

DEFINITIONS: Final = Kind(
    "CustomResourceDefinition",
    "customresourcedefinitions",
    Definition,
    "apiextensions.k8s.io",
    namespaced=False,
)
VERSION_SECONDS: Final = 10.0
BODY_MAX: Final = 1 << 16
_DOCUMENT: Final = msgspec.json.Decoder(dict[str, Any])


async def gather(client: Client) -> ClusterState:
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
        rights=await or_failure(_rights(client, nmi, mic)),
        secrets=await or_failure(secret_access(client, objects, nmi)),
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
                if respelled(kind, document := _document(raw)) is not None:
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
    names = {(each.lease_namespace, each.lease_name): None for each in _settings(mic)}
    found = []
    for namespace, name in names or {(usual.lease_namespace, usual.lease_name): None}:
        lease = await _lock_record(client, LeaseFormat(), LEASES, namespace, name)
        endpoints = await _lock_record(client, AnnotationFormat(), ENDPOINTS, namespace, name)
        found.append(Locks(namespace, name, lease, endpoints))
    return tuple(found)


def _settings(mic: Sequence[Daemon]) -> list[MicSettings]:
    read = []
    for each in mic:
        try:
            read.append(mic_settings(each))
        except UsageError:
            continue  # reported by the check of flags
    return read


async def _lock_record(client: Client, by: LockFormat, kind: Kind[Any], namespace: str, name: str) -> LockRecord | None:
    try:
        return by.read(_document(msgspec.Raw(await client.request("GET", object_path(kind, namespace, name)))))
    except NotFound:
        return None


async def _rights(
    client: Client, nmi: Sequence[Daemon] | ReadFailure, mic: Sequence[Daemon] | ReadFailure
) -> tuple[Rights, ...]:
    nmi_of = {} if isinstance(nmi, ReadFailure) else {service_account_of(each): each for each in nmi}
    mic_of = {} if isinstance(mic, ReadFailure) else {service_account_of(each): each for each in mic}
    return (
        *[
            Rights("NMI", account, await _missing_rights(client, account, nmi_rights(managed=is_managed([each]))))
            for account, each in nmi_of.items()
        ],
        *[await _rights_of_mic(client, account, each) for account, each in mic_of.items()],
    )


async def _rights_of_mic(client: Client, account: str, mic: Daemon) -> Rights:
    namespace = mic.metadata.namespace
    settings = next(iter(_settings([mic])), MicSettings(namespace=namespace))
    wanted = mic_rights(
        namespace=namespace,
        lease_namespace=settings.lease_namespace,
        lease=settings.lease_name,
        config_map=settings.upgrade_config_map,
        taint=bool(settings.startup_taint),
    )
    lacking = await _missing_rights(client, account, wanted)
    record = UpgradeRecord(client, namespace, settings.upgrade_config_map, settings.upgrade_key)
    recorded = await or_failure(record.read()) if settings.type_upgrade else ""
    if isinstance(recorded, ReadFailure):
        return Rights("MIC", account, lacking, unread_record=recorded)
    missing = await _missing_rights(client, account, upgrade_rights())
    if recorded is None:
        return Rights("MIC", account, (*lacking, *missing))
    return Rights("MIC", account, lacking, tuple(each for each in upgrade_rights() if each not in missing))


async def _missing_rights(client: Client, account: str, wanted: Sequence[Right]) -> tuple[Right, ...]:
    allowed = await in_batches(
        partial(
            is_allowed,
            client,
            account,
            verb=right.verb,
            group=right.group,
            resource=right.resource,
            namespace=right.namespace,
            name=right.name,
        )
        for right in wanted
    )
    return tuple(right for right, may in zip(wanted, allowed, strict=True) if not may)
