"""A cluster cache that watches the sandbox's API server in virtual time, and changes of that cluster for tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from _native.index import Index
from nmi.app import COMPONENT
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pod_entry import PodEntry
from nmi.refusal import Refusal
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    NODENAME_LABEL,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzurePodIdentityException,
    Kind,
    Pod,
    Resource,
    nodename_label,
)
from tests.support.memory_api import MemoryApi
from tests.support.nmi_objects import ADDRESS, NODE, assigned_identity, pod
from tests.support.virtual_time import now
from tests.support.waiting import until

ASSIGNED_KIND = "azureassignedidentities.aadpodidentity.k8s.io"
OTHER = "10.0.0.2"
"""The address of `Cluster.with_neighbour`."""
DEADLINE = 15.0
KINDS: dict[type[Resource], Kind[Any]] = {
    AzureAssignedIdentity: ASSIGNED_IDENTITIES,
    AzureIdentity: IDENTITIES,
    AzureIdentityBinding: BINDINGS,
    AzurePodIdentityException: EXCEPTIONS,
}
WATCHES: dict[type[Resource], str] = {
    Pod: "pods",
    AzureAssignedIdentity: "assigned_identities",
    AzureIdentity: "identities",
    AzureIdentityBinding: "bindings",
    AzurePodIdentityException: "exceptions",
}


class Clock:
    """The running loop's clock, which a test may set ahead of the loop's timers."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return now() + self.ahead


class Cluster:
    """The API server's state as tests change it, and the cluster cache that watches it."""

    def __init__(
        self,
        api: MemoryApi,
        cluster_cache: ClusterCache,
        index: Index,
        *,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self.api = api
        self.cluster_cache = cluster_cache
        self.index = index
        self.clock = clock
        self.registry = registry

    def put_pod(self, pod: Pod) -> str:
        """Create the pod, or bring its labels and status up to date; returns its uid.

        Like with the real API server, a watch delivers a new pod without its status first, and later with its status:
        wait for what the test needs of the pod, such as its address, and not for the pod alone.
        """
        document = _document(pod)
        stored = self.api.store.find("pods", pod.metadata.name, pod.metadata.namespace)
        if stored is None:
            document["spec"] = {**document.get("spec", {}), "containers": [{"name": "c", "image": "i"}]}
            stored = self.api.store.create("pods", document, pod.metadata.namespace)
        else:
            stored["metadata"]["labels"] = pod.metadata.labels
            stored = self.api.store.replace("pods", stored)
        stored["status"] = document.get("status", {})
        stored = self.api.store.replace("pods", stored, subresource="status")
        return str(stored["metadata"]["uid"])

    def put(self, *resources: Resource) -> None:
        """Create or replace them; an assigned identity labelled with this node, as MIC does."""
        for resource in resources:
            kind = KINDS[type(resource)]
            document = {"apiVersion": kind.api_version, "kind": kind.name, **_document(resource)}
            if kind is ASSIGNED_IDENTITIES:
                document["metadata"]["labels"] = {NODENAME_LABEL: nodename_label(NODE)}
            namespace, name = resource.key
            stored = f"{kind.plural}.{kind.group}"
            present = self.api.store.find(stored, name, namespace)
            if present is None:
                self.api.store.create(stored, document, namespace)
            else:
                document["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
                self.api.store.replace(stored, document)

    def delete(self, resource: Resource) -> None:
        kind = KINDS[type(resource)]
        self.api.store.delete(f"{kind.plural}.{kind.group}", resource.metadata.name, resource.metadata.namespace)

    # Watch events without a watch.

    def deliver(self, *resources: Resource) -> None:
        """Deliver them as events of their watches."""
        deliver(self.cluster_cache, *resources)

    def deliver_deletion(self, resource: Resource) -> None:
        """Deliver the removal of *resource* as an event of its watch."""
        handler_of(self.cluster_cache, resource).deleted(resource)

    def delete_pod(self, name: str = "web", namespace: str = "ns") -> None:
        self.api.store.delete("pods", name, namespace, grace_seconds=0)

    @property
    def suspended(self) -> bool:
        """Whether the index serves no ready responses."""
        return self.index.suspended

    def at(self, address: str) -> PodEntry | None:
        record = self.index.get(address)
        owner = record.owner if record is not None else None
        assert owner is None or isinstance(owner, PodEntry)
        return owner

    def owner(self, address: str) -> PodEntry:
        """Return the pod at the address, which must exist."""
        owner = self.at(address)
        assert owner is not None
        return owner

    async def with_pod(self, *, assigned: bool = False, **changes: Any) -> PodEntry:
        """A running pod at ADDRESS, with its identity if *assigned*, once the cluster cache has seen it."""
        self.put_pod(pod(**changes))
        if assigned:
            self.put(assigned_identity())
        await self.seen(lambda: bool((entry := self.at(ADDRESS)) and (entry.assigned or not assigned)))
        return self.owner(ADDRESS)

    async def seen(self, condition: Callable[[], bool]) -> None:
        """Wait until the cluster cache has fulfilled *condition*."""
        await until(condition)

    async def with_neighbour(self, *, assigned: bool = False) -> PodEntry:
        """A later pod at OTHER, once the cluster cache has seen it, and so all earlier changes."""
        self.put_pod(pod("neighbour", addresses=(OTHER,)))
        if assigned:
            self.put(assigned_identity(pod_name="neighbour"))
        await self.seen(lambda: bool((entry := self.at(OTHER)) and (entry.assigned or not assigned)))
        return self.owner(OTHER)

    async def finds_nothing(self, lookup: Coroutine[Any, Any, PodEntry | Refusal | None]) -> None:
        """Check that *lookup* still waits after its read, and end it.

        Its time limit must be long: a limit that is short for the test can end the lookup before the read.
        """
        task = asyncio.create_task(lookup)
        waits = (self.cluster_cache._address_waits, self.cluster_cache._name_waits)
        await self.seen(lambda: any(wait.waiting for wait in waits))
        await self.seen(lambda: not any(wait._tasks for wait in waits))
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def reads(self) -> list[str]:
        """Return the requests other than lists and watches: single objects, and lists by address."""
        return [
            request.path
            for request in self.api.requests
            if "status.podIP" in request.path or ("/pods/" in request.path and "?" not in request.path)
        ]


def handler_of(cluster_cache: ClusterCache, resource: Resource) -> Any:
    """Return the handler of the watch of such objects."""
    return cluster_cache.watches.by_name[WATCHES[type(resource)]].objects.handler


def deliver(cluster_cache: ClusterCache, *resources: Resource) -> None:
    """Deliver *resources* as events of their watches."""
    for resource in resources:
        handler_of(cluster_cache, resource).upserted(None, resource)


@asynccontextmanager
async def waking(entry: PodEntry) -> AsyncIterator[None]:
    """Check that the body's change wakes those that wait for a change of the pod."""
    waiter = asyncio.create_task(entry.changed(entry.record.generation))
    yield
    await asyncio.wait_for(waiter, DEADLINE)


def _document(resource: Resource) -> dict[str, Any]:
    """Return the document for the API server, which sets uids and deletion timestamps itself."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(resource))
    for field in ("uid", "resourceVersion", "deletionTimestamp"):
        document["metadata"].pop(field, None)
    return document


@asynccontextmanager
async def running_cluster(
    prepare: Callable[[Cluster], None] | None = None,
    *,
    watching: bool = True,
    old_field_names: bool = False,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """Run a cluster with a synced cache. *prepare* changes the cluster before the first list.

    Without *watching* the cache receives no events, like from a very slow watch.
    """
    clock, index, registry = clock or Clock(), Index(), CollectorRegistry()
    api = MemoryApi(keep=1000)
    client = api.client(
        f"{COMPONENT}/test", old_field_names=old_field_names, open_session=api.network.open_session, clock=clock
    )
    cluster_cache = ClusterCache(client, index, IdentityMetrics(registry), node=NODE, clock=clock, **settings)
    cluster = Cluster(api, cluster_cache, index, clock=clock, registry=registry)
    api.store.create("namespaces", {"metadata": {"name": "ns"}})
    if prepare is not None:
        prepare(cluster)
    task = asyncio.create_task(cluster_cache.run()) if watching else None
    try:
        if watching:
            async with asyncio.timeout(DEADLINE):
                await cluster_cache.synced()
        api.requests.clear()
        yield cluster
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await cluster_cache.aclose()
        await client.aclose()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster whose cache has its watches."""
    async with running_cluster() as made:
        yield made


@pytest.fixture
async def unwatched() -> AsyncIterator[Cluster]:
    """A cluster whose cache receives only what the test delivers."""
    async with running_cluster(watching=False) as made:
        yield made


@pytest.fixture
async def managed() -> AsyncIterator[Cluster]:
    """A cluster without MIC, whose cache receives only what the test delivers."""
    async with running_cluster(managed=True, watching=False) as made:
        yield made
