"""Reads what the checks look at: each of our kinds once, pods and nodes, the definitions, the locks, and what the
service accounts may do (SubjectAccessReviews, which the API server answers and does not store).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from mic.startup.settings import Settings as MicSettings
from mic.startup.spellings import KINDS, respelled
from podidctl.doctor.ages import DATED_PODS, created, of_pods
from podidctl.doctor.federation import federation
from podidctl.doctor.programs import is_managed, mic_settings
from podidctl.doctor.rights import of_mic, of_nmi
from podidctl.doctor.secret_access import secret_access
from podidctl.doctor.state import Definition, Locks, Objects, Right, Rights, Seen, Server, Stored, Which
from podidctl.inquiry.daemons import Daemon, daemons
from podidctl.inquiry.facts import Unread
from podidctl.inquiry.gather import or_unread
from podidctl.inquiry.reviews import account_of, allowed
from podidentity.flags import UsageError
from podidentity.kube.client import Client, object_path
from podidentity.kube.decoding import Malformed, decode_meta, decode_object, shallow
from podidentity.kube.errors import ApiError, NotFound, Unreachable
from podidentity.kube.lock_records import ENDPOINTS, LEASES, InAnnotation, InLease, LockFormat, Record
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    NODES,
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
_DOCUMENT: Final = msgspec.json.Decoder(dict[str, Any])


async def gather(client: Client) -> Seen:
    """All of it. Raises ApiError where the API server does not answer, or not to us."""
    server = await or_unread(_server(client))
    nmi = await or_unread(_sorted(client, "nmi"))
    mic = await or_unread(_sorted(client, "mic"))
    objects, stored = await _objects(client)
    return Seen(
        now=datetime.now(UTC),
        server=server,
        definitions={each.plural: await or_unread(_definition(client, each)) for each in KINDS},
        stored=stored,
        objects=objects,
        nmi=nmi,
        mic=mic,
        locks=await or_unread(_locks(client, () if isinstance(mic, Unread) else mic)),
        rights=await or_unread(_rights(client, nmi, mic)),
        secrets=await or_unread(secret_access(client, objects, nmi)),
        federation=await federation(client, objects, nmi),
    )


async def _sorted(client: Client, component: str) -> tuple[Daemon, ...]:
    return tuple(await daemons(client, component))


class _Told(msgspec.Struct):
    git_version: str = msgspec.field(name="gitVersion", default="")


async def _server(client: Client) -> Server:
    """The version, and the clock by the answer's Date. Raises Unreachable."""
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
                told = answer.headers.get("Date", "")
                body = await answer.content.read(1 << 16)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        raise Unreachable(f"cannot reach {access.server}: {str(cause) or type(cause).__name__}") from error
    try:
        version = msgspec.json.decode(body, type=_Told).git_version
    except (msgspec.DecodeError, UnicodeDecodeError):
        version = ""
    return clocked(version, told, sent, seconds)


def clocked(version: str, date: str, sent: datetime, seconds: float) -> Server:
    """What an answer with this Date, to a request *sent* and answered within so many *seconds*, says of the clocks."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return Server(version)
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    # The header tells whole seconds, cut off.
    ahead = theirs + timedelta(seconds=0.5) - (sent + timedelta(seconds=seconds / 2))
    return Server(version, ahead.total_seconds(), seconds / 2 + 0.5)


async def _definition(client: Client, kind: Kind[Any]) -> Definition | None:
    try:
        return await client.get(DEFINITIONS, "", f"{kind.plural}.{kind.group}")
    except NotFound:
        return None


async def _objects(client: Client) -> tuple[Objects | Unread, dict[str, Stored]]:
    """Our objects, and how they are stored. A kind that is not installed has none: its definition's check says so."""
    stored: dict[str, Stored] = {}
    made: dict[Which, datetime] = {}
    assigned = await _kind(client, ASSIGNED_IDENTITIES, stored, made)
    identities = await _kind(client, IDENTITIES, stored, made)
    bindings = await _kind(client, BINDINGS, stored, made)
    exceptions = await _kind(client, EXCEPTIONS, stored, made)
    pods = await or_unread(client.list(DATED_PODS, label_selector=BINDING_LABEL))
    nodes = await or_unread(client.list(NODES))
    for each in (assigned, identities, bindings, exceptions, pods, nodes):
        if isinstance(each, Unread):
            return each, stored
    dates = made | (of_pods(pods) if not isinstance(pods, Unread) else {})
    there = Objects(*map(_tuple, (identities, bindings, exceptions, assigned, pods, nodes)))
    return replace(there, made=dates), stored


def _tuple(several: Any) -> Any:
    return tuple(several)


async def _kind(
    client: Client, kind: Kind[R], stored: dict[str, Stored], made: dict[Which, datetime]
) -> list[R] | Unread:
    items: list[R] = []
    old: list[str] = []
    unreadable: list[str] = []
    try:
        async for page in client.pages(kind):
            if page.first:
                items, old, unreadable = [], [], []
            unreadable += [f"{each.meta.namespace}/{each.meta.name}" for each in page.skipped]
            for raw in page.items:
                try:
                    items.append(decode_object(kind, raw))
                except Malformed:
                    unreadable.append("/".join(_key(raw)))
                    continue
                if (since := created(raw)) is not None:
                    made[Which(kind.plural, *items[-1].key)] = since
                if respelled(kind, _document(raw)) is not None:
                    old.append("/".join(items[-1].key))
    except NotFound:
        return []
    except Unreachable:
        raise
    except ApiError as error:
        return Unread(f"{kind.plural}: {error.message}")
    stored[kind.plural] = Stored(tuple(old), tuple(unreadable))
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
    """Of each name that a MIC locks by; of the usual one where there is none to be seen."""
    usual = MicSettings(namespace="default")
    names = {(each.lease_namespace, each.lease_name): None for each in _settings(mic)}
    found = []
    for namespace, name in names or {(usual.lease_namespace, usual.lease_name): None}:
        lease = await _lock(client, InLease(), LEASES, namespace, name)
        endpoints = await _lock(client, InAnnotation(), ENDPOINTS, namespace, name)
        found.append(Locks(namespace, name, lease, endpoints))
    return tuple(found)


def _settings(mic: Sequence[Daemon]) -> list[MicSettings]:
    read = []
    for each in mic:
        try:
            read.append(mic_settings(each))
        except UsageError:
            continue  # told by the check of flags
    return read


async def _lock(client: Client, by: LockFormat, kind: Kind[Any], namespace: str, name: str) -> Record | None:
    try:
        return by.read(_document(msgspec.Raw(await client.request("GET", object_path(kind, namespace, name)))))
    except NotFound:
        return None


async def _rights(client: Client, nmi: Sequence[Daemon] | Unread, mic: Sequence[Daemon] | Unread) -> tuple[Rights, ...]:
    asked: dict[tuple[str, str], tuple[Right, ...]] = {}
    for each in () if isinstance(nmi, Unread) else nmi:
        asked["NMI", account_of(each)] = of_nmi(managed=is_managed([each]))
    for each in () if isinstance(mic, Unread) else mic:
        settings = next(iter(_settings([each])), MicSettings(namespace=each.metadata.namespace))
        asked["MIC", account_of(each)] = of_mic(
            namespace=each.metadata.namespace,
            lease_namespace=settings.lease_namespace,
            lease=settings.lease_name,
            config_map=settings.upgrade_config_map,
            taint=bool(settings.startup_taint),
        )
    return tuple([await _lacking(client, program, account, want) for (program, account), want in asked.items()])


async def _lacking(client: Client, program: str, account: str, wanted: Sequence[Right]) -> Rights:
    lacking = [
        right
        for right in wanted
        if not await allowed(
            client,
            account,
            verb=right.verb,
            group=right.group,
            resource=right.resource,
            namespace=right.namespace,
            name=right.name,
        )
    ]
    return Rights(program, account, tuple(lacking))
