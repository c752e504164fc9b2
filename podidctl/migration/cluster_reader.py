"""Reader of the live cluster for both migrations. Only lists and gets, so read permissions are enough."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

import msgspec

from mic.startup.object_upgrade import KINDS, kinds_that_drop_old_names
from mic.startup.settings import Settings
from mic.startup.type_upgrade import UpgradeRecord
from podidctl.commands import connection
from podidctl.facts.kinds import DaemonContainer
from podidctl.migration.differences import Installation
from podidctl.migration.installed_programs import InstalledProgram, is_namespaced, mic_settings
from podidctl.migration.workloads import (
    DAEMON_SETS,
    DEPLOYMENTS,
    SERVICE_ACCOUNTS,
    TEMPLATED,
    WorkloadObject,
    WorkloadState,
)
from podidctl.reading.requests import or_none
from podidentity.kube.client import Client
from podidentity.kube.decoding import decode_meta
from podidentity.kube.errors import ApiError, Forbidden, NotFound, Unauthorized
from podidentity.kube.lock_records import ENDPOINTS, AnnotationFormat
from podidentity.kube.paths import object_path
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

PROGRAMS: Final = ("nmi", "mic")


def connect(settings: Settings) -> AbstractAsyncContextManager[Client]:
    """Connect to the cluster of *settings*. Raises StartError, also for errors in the context."""
    return connection.connect(settings, advice=_api_error_text)


async def read_installation(client: Client) -> tuple[Installation, list[InstalledProgram]]:
    """Return the input of the migration from the Go implementation. Raises ApiError if custom resources or pods cannot
    be read.
    """
    unread: dict[str, str] = {}
    documents = {kind.name: await _stored_objects(client, kind) for kind in KINDS}
    pods = await client.list(PODS, label_selector=BINDING_LABEL)
    programs = await _programs(client, unread)
    settings = mic_settings(programs) or Settings(namespace="default")
    record, record_at = await _upgrade_record(client, settings, unread)
    lock_at = f"{settings.lease_namespace}/{settings.lease_name}"
    installation = Installation(
        documents=documents,
        pods=pods,
        dropped=[kind.name for kind in kinds_that_drop_old_names(await _openapi(client))],
        record=record,
        record_at=record_at,
        lock=await _lock_holder(client, settings, lock_at, unread),
        lock_at=lock_at,
        unread=unread,
    )
    return installation, programs


async def read_workload_state(client: Client, *, force_namespaced: bool) -> WorkloadState:
    """Return the input of the migration to workload identity. Identities serve only their own namespace with
    *force_namespaced*, or if the installed MIC or NMI has this flag. Raises ApiError.
    """
    programs = await _programs(client, {})
    return WorkloadState(
        identities=await client.list(IDENTITIES),
        bindings=await client.list(BINDINGS),
        objects={kind.name: await list_if_served(client, kind) for kind in TEMPLATED},
        pods=await client.list(SCHEDULED_PODS),
        accounts=await client.list(SERVICE_ACCOUNTS),
        force_namespaced=force_namespaced or is_namespaced(programs),
    )


async def read_issuer(client: Client) -> str:
    """Return the issuer of service account tokens; empty if the API server does not publish it."""
    try:
        response = await client.request("GET", "/.well-known/openid-configuration")
        document = msgspec.json.decode(response)
    except (ApiError, msgspec.DecodeError):
        return ""
    issuer = document.get("issuer") if isinstance(document, dict) else ""
    return issuer if isinstance(issuer, str) else ""


async def list_if_served(client: Client, kind: Kind[R]) -> list[R]:
    """Return all objects of *kind*; none if the server does not serve it, as the sandbox with some built-in kinds."""
    return await or_none(client.list(kind)) or []


async def _stored_objects(client: Client, kind: Kind[Any]) -> list[dict[str, Any]]:
    """Return the objects as stored. Content that is nested too deep is omitted; MIC reads no more than this."""
    objects: list[dict[str, Any]] = []
    async for page in client.pages(kind):
        if page.first:
            objects = []
        objects += [_unreadable(skipped.meta) for skipped in page.skipped]
        for raw in page.items:
            try:
                # Objects in a list lack the fields that the list states once.
                objects.append({"apiVersion": kind.api_version, "kind": kind.name} | msgspec.json.decode(raw))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                objects.append(_unreadable(decode_meta(raw)))
    return objects


def _unreadable(meta: BareMeta) -> dict[str, Any]:
    return {"metadata": {"namespace": meta.namespace, "name": meta.name}, "spec": "(unreadable)"}


async def _programs(client: Client, unread: dict[str, str]) -> list[InstalledProgram]:
    programs: list[InstalledProgram] = []
    for kind in (DAEMON_SETS, DEPLOYMENTS):
        try:
            workloads: Sequence[WorkloadObject] = await client.list(kind)
        except (Forbidden, NotFound) as error:
            unread[kind.plural] = error.message
            continue
        programs += [
            program
            for workload in workloads
            for container in workload.spec.template.spec.containers
            if (program := _program(kind, workload, container)) is not None
        ]
    return programs


def _program(kind: Kind[Any], workload: WorkloadObject, container: DaemonContainer) -> InstalledProgram | None:
    """Return the NMI or MIC that *container* runs, by the name of its image or its own, or None."""
    image = container.image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    name = next((name for name in PROGRAMS if name in {image, container.name}), None)
    if name is None or (kind is DAEMON_SETS) is not (name == "nmi"):
        return None
    meta = workload.metadata
    return InstalledProgram(
        name=name,
        workload=f"{kind.name} {meta.namespace}/{meta.name}",
        namespace=meta.namespace,
        flags=[*container.command[1:], *container.args],
        environ={variable.name: variable.value for variable in container.env if variable.value},
    )


async def _upgrade_record(client: Client, settings: Settings, unread: dict[str, str]) -> tuple[str | None, str]:
    record = UpgradeRecord(client, settings.namespace, settings.upgrade_config_map, settings.upgrade_key)
    try:
        return await record.read(), record.location
    except Forbidden as error:
        unread[record.location] = error.message
        return None, record.location


async def _lock_holder(client: Client, settings: Settings, lock_at: str, unread: dict[str, str]) -> str | None:
    try:
        response = await client.request("GET", object_path(ENDPOINTS, settings.lease_namespace, settings.lease_name))
    except NotFound:
        return None
    except Forbidden as error:
        unread[f"Endpoints {lock_at}"] = error.message
        return None
    return AnnotationFormat().read(msgspec.json.decode(response)).holder


async def _openapi(client: Client) -> bytes:
    try:
        return await client.request("GET", f"/openapi/v3/apis/{GROUP}/v1")
    except (Forbidden, NotFound):
        return b"{}"


def _api_error_text(error: ApiError) -> str:
    match error:
        case Unauthorized():
            return f"the API server rejects the credentials ({error}): check the credentials in --kubeconfig"
        case Forbidden():
            return f"not allowed to read the cluster: grant list on the resource in the message ({error.message})"
        case NotFound():
            return (
                "the API server does not serve one of the custom resources: is aad-pod-identity installed? "
                f"({error.message})"
            )
        case _ if not error.status:
            return f"{error.message}: check --kubeconfig and that the API server runs"
        case _:
            return f"the API server did not return its lists, try again: {error}"
