"""One look at the live cluster, for both migrations: lists only, so rights to list are enough."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from mic.startup.settings import Settings
from mic.startup.spellings import KINDS, dropping
from mic.startup.type_upgrade import UpgradeRecord
from podidctl.migration.differences import Installation
from podidctl.migration.installed_programs import Program, is_namespaced, mic_settings
from podidctl.migration.projections import (
    DAEMON_SETS,
    DEPLOYMENTS,
    RUNNING_PODS,
    SERVICE_ACCOUNTS,
    WorkloadContainer,
    WorkloadObject,
)
from podidctl.migration.workload_identity import WorkloadState
from podidctl.migration.workloads import TEMPLATED, WorkloadInventory
from podidentity.exits import StartError
from podidentity.kube import access
from podidentity.kube.client import Client, object_path
from podidentity.kube.decoding import decode_meta
from podidentity.kube.errors import AccessError, ApiError, Forbidden, NotFound, Unauthorized
from podidentity.kube.lock_records import ENDPOINTS, InAnnotation
from podidentity.resources import BINDING_LABEL, BINDINGS, GROUP, IDENTITIES, PODS, BareMeta, Kind
from podidentity.version import VERSION

PROGRAMS: Final = ("nmi", "mic")


@asynccontextmanager
async def connect(kubeconfig: str, environ: Mapping[str, str], home: Path) -> AsyncIterator[Client]:
    """A client of the cluster that kubectl would ask, or in a pod of its own. Raises StartError, also for what fails
    within."""
    usual = home / ".kube" / "config"
    in_pod = "KUBERNETES_SERVICE_HOST" in environ
    path = kubeconfig or environ.get("KUBECONFIG", "") or (str(usual) if usual.is_file() and not in_pod else "")
    try:
        async with Client(await access.find(path, environ), user_agent=f"podidctl/{VERSION}") as client:
            yield client
    except AccessError as error:
        raise StartError(str(error)) from error
    except ApiError as error:
        raise StartError(_api_error_text(error)) from error


async def read_installation(client: Client) -> tuple[Installation, list[Program]]:
    """What the migration from the reference is told of. Raises ApiError where the four kinds or pods cannot be read."""
    unread: dict[str, str] = {}
    documents = {kind.name: await _stored_objects(client, kind) for kind in KINDS}
    pods = await client.list(PODS, label_selector=BINDING_LABEL)
    programs = await _programs(client, unread)
    settings = mic_settings(programs) or Settings(namespace="default")
    record, record_at = await _upgrade_record(client, settings, unread)
    lock_at = f"{settings.lease_namespace}/{settings.lease_name}"
    found = Installation(
        documents=documents,
        pods=pods,
        dropped=[kind.name for kind in dropping(await _openapi(client))],
        record=record,
        record_at=record_at,
        lock=await _lock_holder(client, settings, lock_at, unread),
        lock_at=lock_at,
        unread=unread,
    )
    return found, programs


async def read_workload_state(client: Client, *, force_namespaced: bool) -> WorkloadState:
    """What the migration to workload identity is made from. Identities serve their own namespace only with
    *force_namespaced*, or where the MIC or NMI that is installed says so. Raises ApiError."""
    programs = await _programs(client, {})
    return WorkloadState(
        identities=await client.list(IDENTITIES),
        bindings=await client.list(BINDINGS),
        inventory=WorkloadInventory(
            {kind.name: await list_if_served(client, kind) for kind in TEMPLATED}, await client.list(RUNNING_PODS)
        ),
        accounts=await client.list(SERVICE_ACCOUNTS),
        force_namespaced=force_namespaced or is_namespaced(programs),
    )


async def read_issuer(client: Client) -> str:
    """Who signs the tokens of the cluster's service accounts; empty where we are not told."""
    try:
        answer = await client.request("GET", "/.well-known/openid-configuration")
        told = msgspec.json.decode(answer)
    except (ApiError, msgspec.DecodeError):
        return ""
    found = told.get("issuer") if isinstance(told, dict) else ""
    return found if isinstance(found, str) else ""


async def list_if_served(client: Client, kind: Kind[Any]) -> list[Any]:
    """All objects of a kind of Kubernetes' own; none where the server does not serve it, as the sandbox's."""
    try:
        return await client.list(kind)
    except NotFound:
        return []


async def _stored_objects(client: Client, kind: Kind[Any]) -> list[dict[str, Any]]:
    """The objects as they are stored; without those nested too deep to be read, of which MIC reads no more."""
    found: list[dict[str, Any]] = []
    async for page in client.pages(kind):
        if page.first:
            found = []
        found += [_unreadable(each.meta) for each in page.skipped]
        for raw in page.items:
            try:
                # Objects of a list lack what the list says for all.
                found.append({"apiVersion": kind.api_version, "kind": kind.name} | msgspec.json.decode(raw))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found.append(_unreadable(decode_meta(raw)))
    return found


def _unreadable(meta: BareMeta) -> dict[str, Any]:
    return {"metadata": {"namespace": meta.namespace, "name": meta.name}, "spec": "(unreadable)"}


async def _programs(client: Client, unread: dict[str, str]) -> list[Program]:
    found: list[Program] = []
    for kind in (DAEMON_SETS, DEPLOYMENTS):
        try:
            workloads: Sequence[WorkloadObject] = await client.list(kind)
        except (Forbidden, NotFound) as error:
            unread[kind.plural] = error.message
            continue
        found += [
            program
            for workload in workloads
            for container in workload.spec.template.spec.containers
            if (program := _program(kind, workload, container)) is not None
        ]
    return found


def _program(kind: Kind[Any], workload: WorkloadObject, container: WorkloadContainer) -> Program | None:
    """The NMI or MIC that *container* is, by its image's name or its own, if it is one."""
    image = container.image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    name = next((each for each in PROGRAMS if each in {image, container.name}), None)
    if name is None or (kind is DAEMON_SETS) is not (name == "nmi"):
        return None
    meta = workload.metadata
    return Program(
        name=name,
        workload=f"{kind.name} {meta.namespace}/{meta.name}",
        namespace=meta.namespace,
        flags=[*container.command[1:], *container.args],
        environ={each.name: each.value for each in container.env if each.value},
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
        answer = await client.request("GET", object_path(ENDPOINTS, settings.lease_namespace, settings.lease_name))
    except NotFound:
        return None
    except Forbidden as error:
        unread[f"Endpoints {lock_at}"] = error.message
        return None
    return InAnnotation().read(msgspec.json.decode(answer)).holder


async def _openapi(client: Client) -> bytes:
    try:
        return await client.request("GET", f"/openapi/v3/apis/{GROUP}/v1")
    except (Forbidden, NotFound):
        return b"{}"


def _api_error_text(error: ApiError) -> str:
    match error:
        case Unauthorized():
            return f"the API server refuses us ({error}): check the credentials in --kubeconfig"
        case Forbidden():
            return f"not allowed to read the cluster: grant list on what the message names ({error.message})"
        case NotFound():
            return f"the API server does not know one of our kinds: is aad-pod-identity installed? ({error.message})"
        case _ if not error.status:
            return f"{error.message}: check --kubeconfig, or that the API server runs"
        case _:
            return f"the API server did not give its lists, try again: {error}"
