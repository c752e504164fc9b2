"""One read of the live cluster and of Azure: a LIST of each kind, and a GET of each VM or scale set in use.

It only reads: a service account with list permission for these kinds, and a role that may read VMs and scale sets,
suffice.
"""

from msgspec.structs import replace

from mic.azure.reading import read_hosts
from mic.preview.dry_run import DryRun, DryRunError, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.preview.schema import Preview
from mic.startup.azure_reader import USER_AGENT, azure_reader
from mic.startup.policy import policy_of
from mic.startup.settings import MicSettings
from mic.startup.type_upgrade import CONFIG_MAPS, UpgradeRecord
from podidentity.exits import StartError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, Forbidden, api_error_advice
from podidentity.report import counted
from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL, BINDINGS, IDENTITIES, NODES, PODS
from podidentity.version import VERSION


async def survey(settings: MicSettings) -> Preview:
    """Return the plan of a MIC with these settings. Raise StartError if it is unknown."""
    try:
        cluster = await access.find(settings.kubeconfig, settings.cluster_environment)
        async with Client(cluster, user_agent=f"{USER_AGENT}/{VERSION}") as client:
            return await survey_by(client, settings)
    except AccessError as error:
        raise StartError(str(error)) from error
    except ApiError as error:
        raise StartError(api_error_advice(error)) from error


async def survey_by(client: Client, settings: MicSettings, *, ask_azure: bool = True) -> Preview:
    """Return the plan of a MIC with these settings in the cluster of *client*. Raise ApiError, and StartError.

    The report's `unread_hosts` are those that Azure did not return. Without *ask_azure* no host is known, and no
    credentials are needed.
    """
    upgraded = False if settings.read_old_field_names else await is_upgraded(client, settings)
    client.old_field_names = not upgraded
    snapshot = await read_cluster(client)
    try:
        plan = await _with_azure(settings, snapshot) if ask_azure else _without_azure(settings, snapshot)
    except DryRunError as error:
        raise StartError(str(error)) from error
    return replace(plan, upgrade_unknown=upgraded is None)


async def is_upgraded(client: Client, settings: MicSettings) -> bool | None:
    """Return whether the type upgrade is recorded as done; in any namespace if MIC's is not known.

    Return None if the record may not be read. Raise ApiError.
    """
    name = settings.upgrade_config_map
    try:
        namespaces = [settings.namespace] if settings.namespace else await _namespaces_of(client, name)
        records = [UpgradeRecord(client, namespace, name, settings.upgrade_key) for namespace in namespaces]
        # A list, because any() does not accept an asynchronous generator.
        return any([await record.read() is not None for record in records])
    except Forbidden:
        return None


async def _namespaces_of(client: Client, config_map: str) -> list[str]:
    config_maps = await client.list(CONFIG_MAPS, field_selector=f"metadata.name={config_map}")
    return [stored.metadata.namespace for stored in config_maps]


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


async def _with_azure(settings: MicSettings, snapshot: Snapshot) -> Preview:
    async with azure_reader(settings) as (own, compute):
        dry_run = DryRun(snapshot, policy_of(settings, own), force_namespaced=settings.force_namespaced)
        responses = await read_hosts(compute, dry_run.hosts())
    return preview(snapshot, dry_run, AzureReads(responses=responses, own_identity=own), _shown(settings))


def _without_azure(settings: MicSettings, snapshot: Snapshot) -> Preview:
    dry_run = DryRun(snapshot, policy_of(settings, ""), force_namespaced=settings.force_namespaced)
    return preview(snapshot, dry_run, AzureReads(responses=None), _shown(settings))


def _shown(settings: MicSettings) -> dict[str, str]:
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
