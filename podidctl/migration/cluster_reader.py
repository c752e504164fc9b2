"""Reader of the live cluster for both migrations. Only lists and gets, so read permissions are enough."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from mic.startup.object_upgrade import KINDS, kinds_that_drop_old_names
from mic.startup.settings import Settings
from mic.startup.type_upgrade import UpgradeRecord
from podidctl.facts.kinds import Daemon, DaemonContainer, DaemonSpec
from podidctl.facts.settings import NO_NODE, is_namespaced, readable_configurations, readable_mic_settings
from podidctl.migration.differences import Installation
from podidctl.migration.workloads import (
    DAEMON_SETS,
    DEPLOYMENTS,
    SERVICE_ACCOUNTS,
    TEMPLATED,
    WorkloadObject,
    WorkloadState,
)
from podidctl.reading.objects import document_of
from podidctl.reading.reader import lock_record
from podidctl.reading.requests import or_none
from podidentity.kube.client import Client
from podidentity.kube.decoding import decode_meta
from podidentity.kube.errors import ApiError, Forbidden, NotFound
from podidentity.kube.lock_records import AnnotationFormat
from podidentity.resources import (
    BINDING_LABEL,
    BINDINGS,
    GROUP,
    IDENTITIES,
    PODS,
    SCHEDULED_PODS,
    BareMeta,
    Kind,
    PodMeta,
    Resource,
)

R = TypeVar("R", bound=Resource)
T = TypeVar("T")


async def read_installation(client: Client) -> Installation:
    """Return the input of the migration from the Go implementation. Raises ApiError if custom resources or pods cannot
    be read.
    """
    unread: dict[str, str] = {}
    documents = {kind.name: await _stored_objects(client, kind, unread) for kind in KINDS}
    pods = await client.list(PODS, label_selector=BINDING_LABEL)
    nmis = await _programs(client, DAEMON_SETS, "nmi", unread)
    mics = await _programs(client, DEPLOYMENTS, "mic", unread)
    settings = next(iter(readable_mic_settings(mics)), Settings(namespace="default"))
    record = UpgradeRecord(client, settings.namespace, settings.upgrade_config_map, settings.upgrade_key)
    version = await _or_unread(record.read(), record.location, unread)
    lock_at = f"{settings.lease_namespace}/{settings.lease_name}"
    dropped = kinds_that_drop_old_names(await _openapi(client))
    lock = lock_record(client, AnnotationFormat(), settings.lease_namespace, settings.lease_name)
    held = await _or_unread(lock, f"Endpoints {lock_at}", unread)
    return Installation(
        documents=documents,
        pods=pods,
        dropped=[kind.name for kind in dropped],
        record=version,
        record_at=record.location,
        lock=held.holder if held is not None else None,
        lock_at=lock_at,
        nmis=nmis,
        mics=mics,
        unread=unread,
    )


async def read_workload_state(client: Client, *, force_namespaced: bool) -> WorkloadState:
    """Return the input of the migration to workload identity. Identities serve only their own namespace with
    *force_namespaced*, or if the installed MIC or NMI has this flag. Raises ApiError.
    """
    # A refusal needs no report here, because the lists of TEMPLATED then fail, too.
    nmis = await _programs(client, DAEMON_SETS, "nmi", {})
    mics = await _programs(client, DEPLOYMENTS, "mic", {})
    return WorkloadState(
        identities=await client.list(IDENTITIES),
        bindings=await client.list(BINDINGS),
        objects={kind.name: await list_if_served(client, kind) for kind in TEMPLATED},
        pods=await client.list(SCHEDULED_PODS),
        accounts=await client.list(SERVICE_ACCOUNTS),
        force_namespaced=force_namespaced or is_namespaced(readable_configurations(nmis), mics),
    )


class _Discovery(msgspec.Struct):
    issuer: str = ""


async def read_issuer(client: Client) -> str:
    """Return the issuer of service account tokens; empty if the API server does not publish it."""
    try:
        response = await client.request("GET", "/.well-known/openid-configuration")
        return msgspec.json.decode(response, type=_Discovery).issuer
    except (ApiError, msgspec.DecodeError, UnicodeDecodeError):
        return ""


async def list_if_served(client: Client, kind: Kind[R]) -> list[R]:
    """Return all objects of *kind*; none if the server does not serve it, as the sandbox with some built-in kinds."""
    return await or_none(client.list(kind)) or []


async def _stored_objects(client: Client, kind: Kind[Any], unread: dict[str, str]) -> list[dict[str, Any]]:
    """Return the objects as stored. *unread* names the others, which MIC cannot read either."""
    objects: list[dict[str, Any]] = []
    async for page in client.pages(kind):
        if page.first:
            objects = []
        for skipped in page.skipped:
            unread[_name(kind, skipped.meta)] = str(skipped.error)
        for raw in page.items:
            try:
                # Objects in a list lack the fields that the list states once.
                objects.append({"apiVersion": kind.api_version, "kind": kind.name} | document_of(raw))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                unread[_name(kind, decode_meta(raw))] = str(error)
    return objects


def _name(kind: Kind[Any], meta: BareMeta) -> str:
    return f"{kind.name} {meta.namespace}/{meta.name}" if meta.name else f"{kind.name} (without a name)"


async def _programs(client: Client, kind: Kind[WorkloadObject], program: str, unread: dict[str, str]) -> list[Daemon]:
    """Return the pods of *program* that the objects of *kind* create. If these cannot be read, *unread* states why."""
    try:
        workloads = await client.list(kind)
    except (Forbidden, NotFound) as error:
        unread[kind.plural] = error.message
        return []
    return [
        _pod_of(workload, container)
        for workload in workloads
        for container in workload.template.spec.containers
        if program in {_image_name(container), container.name}
    ]


def _image_name(container: DaemonContainer) -> str:
    return container.image.rpartition("/")[2].partition("@")[0].partition(":")[0]


def _pod_of(workload: WorkloadObject, container: DaemonContainer) -> Daemon:
    """Return the pod of *workload* with this container only, which has the workload's name and is on no real node."""
    # The settings of NMI require a node, and those that depend on it are not used.
    meta = PodMeta(namespace=workload.metadata.namespace, name=workload.metadata.name)
    return Daemon(metadata=meta, spec=DaemonSpec(node_name=NO_NODE, containers=[container]))


async def _or_unread(read: Awaitable[T], what: str, unread: dict[str, str]) -> T | None:
    """Return the result of *read*; None if it is forbidden, which *unread* then states about *what*."""
    try:
        return await read
    except Forbidden as error:
        unread[what] = error.message
        return None


async def _openapi(client: Client) -> bytes:
    try:
        return await client.request("GET", f"/openapi/v3/apis/{GROUP}/v1")
    except (Forbidden, NotFound):
        return b"{}"
