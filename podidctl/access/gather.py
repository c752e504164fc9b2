"""Reader of the objects: one list of each kind, and with Azure one GET of each VM or scale set.

A kind that may not be read becomes a `ReadFailure`, so that the rest of the review is still possible.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import TypeVar

from mic.azure.host_client import HostReader
from mic.preview.survey import ask
from podidctl.access.cluster_objects import AzureState, ClusterObjects, Rbac
from podidctl.access.hosts import HostMap
from podidctl.access.projections import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    REVIEWED_PODS,
    ROLE_BINDINGS,
    ROLES,
)
from podidctl.diagnosis.daemons import Daemon, list_daemons
from podidctl.diagnosis.gather import or_failure
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.node_placement import PLACED_NODES
from podidentity.kube.client import Client
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, Kind, Resource

R = TypeVar("R", bound=Resource)


async def gather(client: Client) -> ClusterObjects:
    """Return the cluster's objects. Raises ApiError if the API server does not respond or rejects the credentials."""
    read_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # The assigned identities come first. A new assignment then never seems to be without a binding.
    assigned = await _all(client, ASSIGNED_IDENTITIES)
    identities = await _all(client, IDENTITIES)
    bindings = await _all(client, BINDINGS)
    exceptions = await _all(client, EXCEPTIONS)
    nodes = await _all(client, PLACED_NODES)
    pods = await _all(client, REVIEWED_PODS)
    rbac = await or_failure(_rbac(client))
    skipped: Counter[str] = Counter()
    for (plural, _), count in client.skipped.counts.items():
        skipped[plural] += count
    nmi = await or_failure(_daemons(client, "nmi"))
    mic = await or_failure(_daemons(client, "mic"))
    return ClusterObjects(
        read_at=read_at,
        identities=identities,
        bindings=bindings,
        exceptions=exceptions,
        assigned=assigned,
        pods=pods,
        nodes=nodes,
        nmi=nmi,
        mic=mic,
        rbac=rbac,
        skipped=skipped,
    )


async def read_azure(objects: ClusterObjects, azure: HostReader, own_identity: str) -> AzureState:
    """Return Azure's responses about the hosts of all nodes."""
    return AzureState(await ask(azure, HostMap(objects).azure_hosts()), own_identity)


async def _all(client: Client, kind: Kind[R]) -> tuple[R, ...] | ReadFailure:
    return await or_failure(_list(client, kind))


async def _list(client: Client, kind: Kind[R]) -> tuple[R, ...]:
    return tuple(await client.list(kind))


async def _daemons(client: Client, component: str) -> tuple[Daemon, ...]:
    return tuple(await list_daemons(client, component))


async def _rbac(client: Client) -> Rbac:
    return Rbac(
        roles=await _list(client, ROLES),
        cluster_roles=await _list(client, CLUSTER_ROLES),
        role_bindings=await _list(client, ROLE_BINDINGS),
        cluster_role_bindings=await _list(client, CLUSTER_ROLE_BINDINGS),
    )
