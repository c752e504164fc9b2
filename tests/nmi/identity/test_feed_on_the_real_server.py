"""The feed against the real kube-apiserver: its selectors, its events, its reads. Excluded: what the emulator shows."""

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from _native.index import Index
from nmi.identity.feed import Feed, Standing
from nmi.identity.measures import IdentityMeasures
from nmi.identity.pods import PodEntry
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.resources import ASSIGNED_IDENTITIES, NODENAME_LABEL, nodename_label
from tests.nmi.identity.cluster import until
from tests.testplane import up

pytestmark = pytest.mark.plane

LONG_NODE = "a-node-whose-name-is-much-longer-than-the-sixty-three-characters-of-a-label.example"
MERGE = "application/merge-patch+json"


class RealCluster:
    """A namespace and a node of this test's own, and a feed of that node."""

    def __init__(self, plane: up.Plane, client: Client) -> None:
        self.plane = plane
        self.namespace = f"feed-{uuid.uuid4().hex[:8]}"
        self.node = f"{self.namespace}-{LONG_NODE}"
        self.index = Index()
        self.registry = CollectorRegistry()
        self.feed = Feed(client, self.index, IdentityMeasures(self.registry), node=self.node)

    async def api(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        return await asyncio.to_thread(self.plane.api, method, path, body, content_type)

    async def create_pod(self, name: str, address: str, label: str = "web") -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        document = {
            "metadata": {"name": name, "labels": {"aadpodidbinding": label}},
            "spec": {"nodeName": self.node, "containers": [{"name": "c", "image": "i"}]},
        }
        made = await self.api("POST", path, document)
        status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        await self.api("PATCH", f"{path}/{name}/status", status, MERGE)
        return str(made["metadata"]["uid"])

    async def create_assigned(self, name: str, pod: str) -> str:
        path = ASSIGNED_IDENTITIES.path(self.namespace)
        embedded = {"apiVersion": "aadpodidentity.k8s.io/v1", "metadata": {"name": name, "namespace": self.namespace}}
        document = {
            "apiVersion": ASSIGNED_IDENTITIES.api_version,
            "kind": ASSIGNED_IDENTITIES.name,
            "metadata": {"name": f"{pod}-{name}", "labels": {NODENAME_LABEL: nodename_label(self.node)}},
            "spec": {
                "azureIdentityRef": {**embedded, "kind": "AzureIdentity", "spec": {"type": 0, "clientID": "c"}},
                "azureBindingRef": {**embedded, "kind": "AzureIdentityBinding", "spec": {"selector": "web"}},
                "pod": pod,
                "podNamespace": self.namespace,
                "nodename": self.node,
            },
            "status": {"status": "Assigned"},
        }
        await self.api("POST", path, document)
        return f"{path}/{pod}-{name}"

    def at(self, address: str) -> PodEntry | None:
        record = self.index.get(address)
        return record.owner if record is not None and isinstance(record.owner, PodEntry) else None


@pytest.fixture
async def cluster(plane: up.Plane) -> AsyncIterator[RealCluster]:
    context = ssl.create_default_context(cadata=plane.ca)

    async def authorization() -> str:
        return f"Bearer {plane.token}"

    async with Client(ClusterAccess(plane.server, context, authorization), user_agent="test") as client:
        made = RealCluster(plane, client)
        await made.api("POST", "/api/v1/namespaces", {"metadata": {"name": made.namespace}})
        account = f"/api/v1/namespaces/{made.namespace}/serviceaccounts/default"
        async with asyncio.timeout(20):
            while not await exists(made, account):
                await asyncio.sleep(0.05)
        yield made
        await made.feed.aclose()


async def exists(cluster: RealCluster, path: str) -> bool:
    try:
        await cluster.api("GET", path)
    except Exception:  # noqa: BLE001 - whatever it is, the caller asks again until its deadline
        return False
    return True


async def test_pods_and_assignments_of_the_node_arrive_change_and_go(cluster: RealCluster) -> None:
    await cluster.create_pod("before", "10.99.0.1")
    task = asyncio.create_task(cluster.feed.run())
    try:
        await asyncio.wait_for(cluster.feed.synced(), 10)
        before = cluster.at("10.99.0.1")
        assert before is not None
        assert before.name == "before"
        await cluster.create_pod("after", "10.99.0.2")
        await until(lambda: cluster.at("10.99.0.2") is not None)
        path = await cluster.create_assigned("id", "after")
        after = cluster.at("10.99.0.2")
        assert after is not None
        await until(lambda: bool(after.assigned))
        assert after.assigned[0].usable
        assert await cluster.feed.standing(after, "10.99.0.2") == Standing(after.facts, after.assigned, certain=True)
        generation = after.record.generation
        revoked = asyncio.create_task(after.changed(generation))
        await cluster.api("DELETE", path)
        await asyncio.wait_for(revoked, 5)
        assert after.assigned == ()
        # Deletion with grace: ending first, verified by a read, then gone.
        pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
        await cluster.api("DELETE", f"{pods}/before")
        await until(lambda: before.ending)
        standing = await cluster.feed.standing(before, "10.99.0.1")
        assert isinstance(standing, Standing)
        assert not standing.certain
        await cluster.api("DELETE", f"{pods}/before?gracePeriodSeconds=0")
        await until(lambda: before.gone)
        assert cluster.at("10.99.0.1") is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_read_finds_a_pod_by_its_address(cluster: RealCluster) -> None:
    uid = await cluster.create_pod("quick", "10.99.1.1")
    entry = await cluster.feed.entry_at("10.99.1.1")
    assert entry is not None
    assert (entry.uid, entry.doubtful) == (uid, True)
