"""Reader of the live cluster for both migrations. Only lists and gets, so read permissions are enough."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from mic.startup.object_upgrade import KINDS, kinds_that_drop_old_names
from mic.startup.settings import MicSettings
from mic.startup.type_upgrade import UpgradeRecord
from podidctl.facts.workloads import TEMPLATED, WorkloadObject
from podidctl.migration.differences import Installation
from podidctl.migration.installed_programs import (
    KINDS_OF_PROGRAMS,
    InstalledProgram,
    installed_programs,
    is_namespaced,
    mic_settings,
)
from podidctl.migration.workloads import SERVICE_ACCOUNTS, WorkloadState
from podidctl.reading.objects import document_of
from podidctl.reading.reader import lock_record
from podidctl.reading.requests import decoded, or_none
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
    Resource,
)

R = TypeVar("R", bound=Resource)
T = TypeVar("T")


async def read_installation(client: Client) -> tuple[Installation, list[InstalledProgram]]:
    """Return the input of the migration from the Go implementation. Raises ApiError if custom resources or pods cannot
    be read.
    """
    unread: dict[str, str] = {}
    documents = {kind.name: await _stored_objects(client, kind, unread) for kind in KINDS}
    pods = await client.list(PODS, label_selector=BINDING_LABEL)
    programs = await _programs(client, unread)
    settings = mic_settings(programs) or MicSettings(namespace="default")
    record = UpgradeRecord(client, settings.namespace, settings.upgrade_config_map, settings.upgrade_key)
    version = await _or_unread(record.read(), record.location, unread)
    lock_at = f"{settings.lease_namespace}/{settings.lease_name}"
    dropped = kinds_that_drop_old_names(await _openapi(client))
    lock = lock_record(client, AnnotationFormat(), settings.lease_namespace, settings.lease_name)
    held = await _or_unread(lock, f"Endpoints {lock_at}", unread)
    installation = Installation(
        documents=documents,
        pods=pods,
        dropped=[kind.name for kind in dropped],
        record=version,
        record_at=record.location,
        lock=held.holder if held is not None else None,
        lock_at=lock_at,
        unread=unread,
    )
    return installation, programs


async def read_workload_state(client: Client, *, force_namespaced: bool) -> WorkloadState:
    """Return the input of the migration to workload identity. Identities serve only their own namespace with
    *force_namespaced*, or if the installed MIC or NMI has this flag. Raises ApiError.
    """
    identities, bindings = await client.list(IDENTITIES), await client.list(BINDINGS)
    objects = {kind.name: await list_if_served(client, kind) for kind in TEMPLATED}
    return WorkloadState(
        identities=identities,
        bindings=bindings,
        objects=objects,
        pods=await client.list(SCHEDULED_PODS),
        accounts=await client.list(SERVICE_ACCOUNTS),
        force_namespaced=force_namespaced or is_namespaced(installed_programs(objects)),
    )


class _Discovery(msgspec.Struct):
    issuer: str = ""


async def read_issuer(client: Client) -> str:
    """Return the issuer of service account tokens; empty if the API server does not publish it."""
    try:
        response = await client.request("GET", "/.well-known/openid-configuration")
        return decoded(response, _Discovery, "the issuer").issuer
    # Not an error: the operator can pass --issuer, and only some outputs need it.
    except ApiError:
        return ""


async def list_if_served(client: Client, kind: Kind[R]) -> list[R]:
    """Return all objects of *kind*; none if the server does not serve it, as the sandbox with some built-in kinds."""
    return await or_none(client.list(kind)) or []


async def _stored_objects(client: Client, kind: Kind[Any], unread: dict[str, str]) -> list[dict[str, Any]]:
    """Return the objects as stored. *unread* names the others, which MIC cannot read either."""
    objects: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    async for page in client.pages(kind):
        if page.first:  # the list may have begun again
            objects, skipped = [], {}
        skipped |= {_name(kind, item.meta): str(item.error) for item in page.skipped}
        for raw in page.items:
            try:
                # Objects in a list lack the fields that the list states once.
                objects.append({"apiVersion": kind.api_version, "kind": kind.name} | document_of(raw))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                skipped[_name(kind, decode_meta(raw))] = str(error)
    unread |= skipped
    return objects


def _name(kind: Kind[Any], meta: BareMeta) -> str:
    return f"{kind.name} {meta.namespace}/{meta.name}" if meta.name else f"{kind.name} (without a name)"


async def _programs(client: Client, unread: dict[str, str]) -> list[InstalledProgram]:
    """Return the installed programs. *unread* states why DaemonSets or Deployments cannot be read."""
    objects: dict[str, list[WorkloadObject]] = {}
    for kind in KINDS_OF_PROGRAMS.values():
        try:
            objects[kind.name] = await client.list(kind)
        except (Forbidden, NotFound) as error:
            unread[kind.plural] = error.message
    return installed_programs(objects)


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
