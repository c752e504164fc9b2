"""One read of the live cluster and of Azure: a LIST of each kind, and a GET of each VM or scale set in use.

It only reads: a service account with list permission for these kinds, and a role that may read VMs and scale sets,
suffice.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from msgspec.structs import replace

from mic.azure.host_client import HostReader
from mic.azure.identities import HostIdentities
from mic.preview.dry_run import DryRun, DryRunError, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.preview.schema import Preview
from mic.preview.text import counted
from mic.startup.policy import policy_of
from mic.startup.settings import Settings
from mic.startup.type_upgrade import CONFIG_MAPS, UpgradeRecord
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.azure.resource_ids import Host
from podidentity.exits import StartError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, Forbidden, NotFound, Unauthorized
from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL, BINDINGS, IDENTITIES, NODES, PODS
from podidentity.version import VERSION

PARALLEL: Final = 16
"""Concurrent GETs: they read a thousand VMs within seconds, without starving a running MIC."""
NO_USE: Final = frozenset({None, 400, 401})
"""Statuses of a refusal that is the same for every host: no token, or a sign-in or api-version that is not accepted."""
USER_AGENT: Final = "aad-pod-identity-mic-plan"


async def survey(settings: Settings, *, ask_azure: bool = True) -> Preview:
    """Return the plan of a MIC with these settings. Raise StartError if it is unknown.

    The report's `unanswered` lists hosts that Azure did not return. Without *ask_azure* no host is known, and no
    credentials are needed.
    """
    try:
        cluster = await access.find(settings.kubeconfig, settings.cluster_environment)
        async with Client(cluster, user_agent=f"{USER_AGENT}/{VERSION}") as client:
            upgraded = False if settings.read_old_field_names else await is_upgraded(client, settings)
            client.old_field_names = not upgraded
            snapshot = await read_cluster(client)
    except AccessError as error:
        raise StartError(str(error)) from error
    except ApiError as error:
        raise StartError(api_error_advice(error)) from error
    try:
        plan = await _with_azure(settings, snapshot) if ask_azure else _told(settings, snapshot)
    except DryRunError as error:
        raise StartError(str(error)) from error
    return replace(plan, upgrade_unknown=upgraded is None)


async def is_upgraded(client: Client, settings: Settings) -> bool | None:
    """Return whether the type upgrade is recorded as done; in any namespace if MIC's is not known.

    Return None if the record may not be read. Raise ApiError.
    """
    name = settings.upgrade_config_map
    try:
        namespaces = [settings.namespace] if settings.namespace else await _namespaces_of(client, name)
        records = [UpgradeRecord(client, each, name, settings.upgrade_key) for each in namespaces]
        return any([await each.read() is not None for each in records])
    except Forbidden:
        return None


async def _namespaces_of(client: Client, config_map: str) -> list[str]:
    found = await client.list(CONFIG_MAPS, field_selector=f"metadata.name={config_map}")
    return [each.metadata.namespace for each in found]


async def read_cluster(client: Client) -> Snapshot:
    """Return one list of each kind. Raise ApiError.

    Assigned identities come first. An object that is written during the lists may then look pending, but none that has
    just been assigned looks unused.
    """
    assigned = await client.list(ASSIGNED_IDENTITIES)
    identities = await client.list(IDENTITIES)
    bindings = await client.list(BINDINGS)
    nodes = await client.list(NODES)
    pods = await client.list(PODS, label_selector=BINDING_LABEL)
    return Snapshot(
        pods=tuple(pods),
        nodes=tuple(nodes),
        identities=tuple(identities),
        bindings=tuple(bindings),
        assigned=tuple(assigned),
    )


async def _with_azure(settings: Settings, snapshot: Snapshot) -> Preview:
    async with reached(settings) as (own, compute):
        dry_run = DryRun(snapshot, policy_of(settings, own), force_namespaced=settings.force_namespaced)
        answers = await ask(compute, dry_run.hosts())
    return preview(snapshot, dry_run, AzureReads(answers=answers, own_identity=own), _shown(settings))


@asynccontextmanager
async def reached(settings: Settings) -> AsyncIterator[tuple[str, HostReader]]:
    """Yield the cluster's own identity, or an empty string, and a client of Azure. Raise StartError."""
    # These imports take half a second, and a survey without Azure does not need them.
    from mic.azure.compute import Compute  # noqa: PLC0415  see above
    from mic.startup.cloud_config import ConfigError, ca_bundle, cloud_of, credential_for, read  # noqa: PLC0415  see above

    # The report contains a failed sign-in with the affected hosts; the library's own lines add nothing.
    logging.getLogger("azure").setLevel(logging.ERROR)

    def configured() -> tuple[str, Compute, Closing]:
        config = read(settings.cloud_config, settings.environment)
        cloud = cloud_of(config, settings.azure_environment_file)
        bundle = ca_bundle(settings.ca_bundle)
        trust = bundle.context if bundle is not None else None
        credential = credential_for(config, cloud, trust=trust)
        agent = " ".join(filter(None, (f"{USER_AGENT}/{VERSION}", settings.custom_user_agent)))
        compute = Compute(credential, cloud, user_agent=agent, api_version=settings.arm_api_version, ssl_context=trust)
        return config.user_assigned_identity, compute, credential

    try:
        own, compute, credential = await asyncio.to_thread(configured)
    except ConfigError as error:
        raise StartError(str(error)) from error
    try:
        yield own, compute
    finally:
        await compute.aclose()
        await credential.close()


class Closing(Protocol):
    """A credential that can be closed."""

    async def close(self) -> None: ...


def _told(settings: Settings, snapshot: Snapshot) -> Preview:
    dry_run = DryRun(snapshot, policy_of(settings, ""), force_namespaced=settings.force_namespaced)
    return preview(snapshot, dry_run, AzureReads(answers=None), _shown(settings))


async def ask(
    compute: HostReader, hosts: Sequence[Host], *, parallel: int = PARALLEL
) -> dict[str, HostIdentities | AzureError]:
    """Return Azure's response for each host, by key, or the failure. At most *parallel* requests run concurrently.

    Requests that would certainly fail in the same way (`NO_USE`, a throttled subscription, an unreachable Azure) are
    not made; the remaining hosts get the same failure.
    """
    answers: dict[str, HostIdentities | AzureError] = {}
    given_up: dict[str, AzureError] = {}
    slots = asyncio.Semaphore(parallel)

    async def one(host: Host) -> None:
        async with slots:
            if error := given_up.get("") or given_up.get(host.subscription):
                answers[host.key] = error
                return
            try:
                answers[host.key] = await compute.get(host)
            except AzureError as error:
                answers[host.key] = error
                silent = len(answers) >= parallel and all(isinstance(each, Unreachable) for each in answers.values())
                if silent or (isinstance(error, Refused) and error.status in NO_USE):
                    given_up[""] = error
                elif isinstance(error, Throttled):
                    given_up[host.subscription] = error

    async with asyncio.TaskGroup() as tasks:
        for host in hosts:
            tasks.create_task(one(host), name=f"read {host.text}")
    return answers


def _shown(settings: Settings) -> dict[str, str]:
    """Return the flags that affect the plan and differ from their defaults; of client ids only the number."""
    immutable = len(settings.immutable_client_ids)
    values = {
        "forceNamespaced": "true" if settings.force_namespaced else "",
        "adopt-existing": "true" if settings.adopt_existing else "",
        "immutable-user-msis": f"({counted(immutable, 'client id')})" if immutable else "",
        "assign-cluster-identity": "true" if settings.assign_cluster_identity else "",
        "allowed-resource-groups": ",".join(settings.allowed_resource_groups),
        "detach-grace": f"{settings.detach_grace_seconds:g}s" if settings.detach_grace_seconds else "",
    }
    return {flag: value for flag, value in values.items() if value}


def api_error_advice(error: ApiError) -> str:
    """Return in one line why the API server refused, and what to do."""
    match error:
        case Unauthorized():
            return f"the API server rejects the credentials ({error}): check those in --kubeconfig or KUBECONFIG"
        case Forbidden():
            return f"not allowed to read the cluster: grant get and list on the named resources ({error.message})"
        case NotFound():
            return f"the API server lacks a kind of aad-pod-identity: install deploy/crds ({error.message})"
        case _ if not error.status:
            return f"{error.message}: check --kubeconfig, or that the API server runs"
        case _:
            return f"the API server failed: {error}; try again, or check it with kubectl get --raw /readyz?verbose"
