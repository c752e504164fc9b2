"""Reader of the objects: one list of each kind, and with Azure one GET of each VM or scale set.

A kind that may not be read becomes a `ReadFailure`, so that the rest of the review is still possible.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

from mic.azure.host_client import HostReader
from mic.azure.reading import read_hosts
from podidctl.access.cluster_objects import AzureState, ClusterObjects, Doubt, Rbac
from podidctl.access.daemon_rules import different
from podidctl.access.hosts import HostMap
from podidctl.access.projections import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    REVIEWED_PODS,
    ROLE_BINDINGS,
    ROLES,
)
from podidctl.facts.kinds import PLACED_NODES, Daemon
from podidctl.facts.model import ReadFailure, readable
from podidctl.facts.settings import genuine_mic, genuine_nmi
from podidctl.reading.daemons import counts_old_field_names, list_daemons
from podidctl.reading.requests import noting, or_failure
from podidentity.kube.client import Client
from podidentity.kube.decoding import NoteIgnored
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, Kind, Resource

R = TypeVar("R", bound=Resource)


async def gather(client: Client) -> ClusterObjects:
    """Return the cluster's objects. Raises ApiError if the API server does not respond or rejects the credentials."""
    read_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    nmi = await or_failure(_daemons(client, "nmi"))
    mic = await or_failure(_daemons(client, "mic"))
    ours = genuine_nmi(readable(nmi))
    counts = await counts_old_field_names(client, different(ours), genuine_mic(readable(mic), ours))
    custom = _CustomResources(client, counts)
    # The assigned identities come first. A new assignment then never seems to be without a binding.
    assigned = await custom.all(ASSIGNED_IDENTITIES)
    identities = await custom.all(IDENTITIES)
    bindings = await custom.all(BINDINGS)
    exceptions = await custom.all(EXCEPTIONS)
    nodes = await or_failure(_list(client, PLACED_NODES))
    pods = await or_failure(_list(client, REVIEWED_PODS))
    rbac = await or_failure(_rbac(client))
    skipped: Counter[str] = Counter()
    for (plural, _), count in client.skipped.counts.items():
        skipped[plural] += count
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
        doubtful=custom.doubtful,
    )


async def read_azure(objects: ClusterObjects, azure: HostReader, own_identity: str) -> AzureState:
    """Return Azure's responses about the hosts of all nodes."""
    return AzureState(await read_hosts(azure, HostMap(objects).azure_hosts()), own_identity)


class _CustomResources:
    """Reader of custom resources with the fields that the program counts which decides by them."""

    def __init__(self, client: Client, counts: Mapping[str, bool | ReadFailure]) -> None:
        self._client = client
        self._counts = counts
        self.doubtful: dict[str, Doubt] = {}

    async def all(self, kind: Kind[R]) -> tuple[R, ...] | ReadFailure:
        """Return the objects. Raises NoResponse."""
        counts = self._counts[kind.plural]
        ignored: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self._client.old_field_names = counts is True
        found = await or_failure(_list(self._client, kind, noting(kind, ignored)))
        if ignored and isinstance(counts, ReadFailure):
            names = tuple(f"{namespace}/{name}" for _, namespace, name in ignored)
            self.doubtful[kind.plural] = Doubt(names, counts.why)
        return found


async def _list(client: Client, kind: Kind[R], note: NoteIgnored | None = None) -> tuple[R, ...]:
    return tuple(await client.list(kind, note=note))


async def _daemons(client: Client, component: str) -> tuple[Daemon, ...]:
    return tuple(await list_daemons(client, component))


async def _rbac(client: Client) -> Rbac:
    return Rbac(
        roles=await _list(client, ROLES),
        cluster_roles=await _list(client, CLUSTER_ROLES),
        role_bindings=await _list(client, ROLE_BINDINGS),
        cluster_role_bindings=await _list(client, CLUSTER_ROLE_BINDINGS),
    )
