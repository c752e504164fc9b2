"""The cluster cache against the real kube-apiserver: selectors, events, reads. Excluded: tests that the emulator
covers.
"""

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from _native.index import Index
from nmi.identity.cluster_cache import ClusterCache, DecisionInput
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pods import PodEntry
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    NODENAME_LABEL,
    Kind,
    nodename_label,
)
from tests.support.nmi.identity.cluster import DEADLINE, patient_reads
from tests.support.testplane import up
from tests.support.waiting import until

pytestmark = pytest.mark.plane

LONG_NODE = "a-node-whose-name-is-much-longer-than-the-sixty-three-characters-of-a-label.example"
MERGE = "application/merge-patch+json"


class RealCluster:
    """A namespace and a node for this test, and a cluster cache of that node."""

    def __init__(self, plane: up.Plane, client: Client, *, managed: bool = False) -> None:
        self.plane = plane
        self.namespace = f"feed-{uuid.uuid4().hex[:8]}"
        self.node = f"{self.namespace}-{LONG_NODE}"
        self.index = Index()
        self.ahead = 0.0
        self.cluster_cache = ClusterCache(
            client,
            self.index,
            IdentityMetrics(CollectorRegistry()),
            node=self.node,
            managed=managed,
            park_seconds=DEADLINE,
            clock=lambda: time.monotonic() + self.ahead,
            mic_namespace=self.namespace,
            exception_namespaces=(self.namespace,),
        )

    async def api(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        return await asyncio.to_thread(self.plane.api, method, path, body, content_type)

    async def create_pod(self, name: str, address: str, label: str = "web", **changes: Any) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        labels = {"aadpodidbinding": label, **changes.pop("labels", {})}
        spec = {"nodeName": self.node, "containers": [{"name": "c", "image": "i"}], **changes.pop("spec", {})}
        document = {"metadata": {"name": name, "labels": labels, **changes}, "spec": spec}
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

    async def create(self, kind: Kind[Any], name: str, spec: dict[str, Any]) -> str:
        path = kind.path(self.namespace)
        document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}, "spec": spec}
        await self.api("POST", path, document)
        return f"{path}/{name}"

    def at(self, address: str) -> PodEntry | None:
        record = self.index.get(address)
        return record.owner if record is not None and isinstance(record.owner, PodEntry) else None


@asynccontextmanager
async def real_cluster(plane: up.Plane, **settings: Any) -> AsyncIterator[RealCluster]:
    context = ssl.create_default_context(cadata=plane.ca)

    async def authorization() -> str:
        return f"Bearer {plane.token}"

    async with Client(ClusterAccess(plane.server, context, authorization), user_agent="test") as client:
        made = RealCluster(plane, client, **settings)
        await made.api("POST", "/api/v1/namespaces", {"metadata": {"name": made.namespace}})
        account = f"/api/v1/namespaces/{made.namespace}/serviceaccounts/default"
        await until(lambda: exists(made, account))
        with patient_reads():
            yield made
        await made.cluster_cache.aclose()


@pytest.fixture
async def cluster(plane: up.Plane) -> AsyncIterator[RealCluster]:
    async with real_cluster(plane) as made:
        yield made


@asynccontextmanager
async def following(cluster: RealCluster) -> AsyncIterator[None]:
    task = asyncio.create_task(cluster.cluster_cache.run())
    try:
        await asyncio.wait_for(cluster.cluster_cache.synced(), DEADLINE)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def exists(cluster: RealCluster, path: str) -> bool:
    try:
        await cluster.api("GET", path)
    except Exception:  # noqa: BLE001 - the caller retries until its deadline
        return False
    return True


async def test_pods_and_assignments_of_the_node_arrive_change_and_go(cluster: RealCluster) -> None:
    await cluster.create_pod("before", "10.99.0.1")
    async with following(cluster):
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
        assert await cluster.cluster_cache.decision_input(after, "10.99.0.2") == DecisionInput(
            after.facts, after.assigned, certain=True
        )
        generation = after.record.generation
        revoked = asyncio.create_task(after.changed(generation))
        await cluster.api("DELETE", path)
        await asyncio.wait_for(revoked, DEADLINE)
        assert after.assigned == ()
        # Deletion with grace: ending first, verified by a read, then gone.
        pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
        await cluster.api("DELETE", f"{pods}/before")
        await until(lambda: before.ending)
        decision_input = await cluster.cluster_cache.decision_input(before, "10.99.0.1")
        assert isinstance(decision_input, DecisionInput)
        assert not decision_input.certain
        await cluster.api("DELETE", f"{pods}/before?gracePeriodSeconds=0")
        await until(lambda: before.gone)
        assert cluster.at("10.99.0.1") is None


async def test_a_pod_of_another_node_is_not_known(cluster: RealCluster) -> None:
    await cluster.create_pod("elsewhere", "10.99.0.8", spec={"nodeName": "another-node"})
    async with following(cluster):
        await cluster.create_pod("here", "10.99.0.9")
        await until(lambda: cluster.at("10.99.0.9") is not None)
        assert cluster.at("10.99.0.8") is None
        assert await cluster.cluster_cache.entry_named(cluster.namespace, "elsewhere") is None


async def test_reads_during_silent_watches_return_what_the_watches_would(plane: up.Plane) -> None:
    async with real_cluster(plane, managed=True) as cluster:
        await cluster.create_pod("web", "10.99.6.1", labels={"app": "web"})
        await cluster.create(BINDINGS, "b", {"azureIdentity": "id", "selector": "web"})
        await cluster.create(IDENTITIES, "id", {"type": 0, "clientID": "c", "resourceID": "r"})
        path = await cluster.create(EXCEPTIONS, "ex", {"podLabels": {"app": "web"}})
        # Nothing has been watched: the pod is found by a read, and so is all that decides about it.
        entry = await cluster.cluster_cache.entry_at("10.99.6.1")
        assert isinstance(entry, PodEntry)
        assert (entry.facts.exempt, entry.assigned) == ("", ())
        now = await cluster.cluster_cache.decision_input(entry, "10.99.6.1")
        assert isinstance(now, DecisionInput)
        assert now.pod.exempt == f"exception {cluster.namespace}/ex"
        assert [each.identity.metadata.name for each in now.assigned] == ["id"]
        await cluster.api("DELETE", path)
        cluster.ahead += 1.0  # how long all requests share a read
        later = await cluster.cluster_cache.decision_input(entry, "10.99.6.1")
        assert isinstance(later, DecisionInput)
        assert (later.pod.exempt, later.certain) == ("", False)
