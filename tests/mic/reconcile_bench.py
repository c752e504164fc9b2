"""Reconcile passes of MIC with the sandbox's API server over TLS, Azure as a table, and a controlled clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from mic.app import COMPONENT
from mic.azure.errors import AzureError, UpdateConflict
from mic.azure.identities import Attached, Change, HostIdentities
from mic.cluster.view import ClusterView
from mic.decisions.policy import Policy
from mic.leader_client import LeaderClient
from mic.metrics import MicMetrics
from mic.reconciliation.host_reconciler import HostReconciler
from mic.reconciliation.host_updater import HostUpdater
from mic.reconciliation.work_queue import PassResult
from mic.reconciliation.writer import Writer
from podidentity.azure.resource_ids import Host
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.kubeapi.server import KubeApi
from tests.mic.cluster import binding, identity, node, pod, vm_id
from tests.mic.emulated_cloud import ASSIGNED, ROOT

VM = vm_id("n0").lower()


@dataclass
class Hosts:
    """Azure as a table; `failures` are raised by the next updates, one each, `unread` by the next reads."""

    state: HostIdentities = field(default_factory=lambda: HostIdentities(etag='"1"'))
    calls: list[str] = field(default_factory=list)
    failures: list[AzureError] = field(default_factory=list)
    unread: list[AzureError] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    async def get(self, host: Host) -> HostIdentities:
        self.calls.append("get")
        if self.unread:
            raise self.unread.pop(0)
        return self.state

    async def update(self, host: Host, change: Change) -> HostIdentities:
        self.calls.append("update")
        self.changes.append(change)
        if self.failures:
            raise self.failures.pop(0)
        if change.etag and change.etag != self.state.etag:
            raise UpdateConflict("another client changed it", status=412, code="PreconditionFailed")
        attached = {key: each for key, each in self.state.attached.items() if each.text not in change.removes}
        attached |= {text.lower(): Attached(text) for text in change.adds}
        self.state = HostIdentities(type=change.type, attached=attached, etag=self.state.etag)
        return self.state


class Time:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class ReconcileBench:
    api: KubeApi
    client: Client
    view: ClusterView
    hosts: Hosts
    time: Time
    host_reconciler: HostReconciler
    recorder: EventRecorder
    registry: CollectorRegistry
    lease: list[float]

    async def reconcile(self) -> PassResult:
        return await self.host_reconciler.reconcile(VM)

    def bind(self, name: str = "demo") -> None:
        """A pod with this identity."""
        self.view.identities.upserted(None, identity(name))
        self.view.bindings.upserted(None, binding(name, identity=name, selector=name))
        self.view.pods.upserted(None, pod(name, label=name))

    def unbind(self, name: str = "demo") -> None:
        self.view.pods.deleted(pod(name, label=name))

    def statuses(self) -> dict[str, str]:
        return {each["metadata"]["name"]: each["status"]["status"] for each in self.api.store.list(ASSIGNED)}

    async def warned(self) -> list[str]:
        """The kinds and names of the objects that were warned about, an Event each."""
        await self.recorder.flushed()
        warnings = [each for each in self.api.store.list("events") if each["type"] == "Warning"]
        assert {each["reason"] for each in warnings} <= {"binding apply error"}
        return sorted(f"{each['involvedObject']['kind']} {each['involvedObject']['name']}" for each in warnings)

    def message(self, name: str) -> str:
        annotations = self.api.store.get(ASSIGNED, name, "default")["metadata"].get("annotations", {})
        return str(annotations.get("aadpodidentity.k8s.io/message", ""))


@asynccontextmanager
async def reconcile_bench(*, grace_seconds: float = 0.0, policy: Policy | None = None) -> AsyncIterator[ReconcileBench]:
    """A cluster with one node on a VM."""
    authority = await asyncio.to_thread(Authority)
    api = await asyncio.to_thread(KubeApi, ROOT / "deploy" / "crds", authority=authority)
    await api.start()

    async def token() -> str:
        return f"Bearer {api.token}"

    trust = await asyncio.to_thread(authority.client_context)
    time, hosts, registry, lease = Time(), Hosts(), CollectorRegistry(), [60.0]
    access = ClusterAccess(api.server, trust, token)
    client = LeaderClient(access, user_agent=f"{COMPONENT}/test", clock=time, remaining_seconds=lambda: lease[0])
    recorder = EventRecorder(client, "mic", "host")
    view, metrics = ClusterView(clock=time), MicMetrics(registry)
    view.nodes.upserted(None, node("n0"))
    writer = Writer(client, view, recorder, metrics, batch=4, per_second=1000.0, burst=1000.0)
    updater = HostUpdater(
        view,
        hosts,
        policy=policy or Policy(),
        max_retries=2,
        retry_seconds=1.0,
        grace_seconds=grace_seconds,
        gone_seconds=180.0,
        lease_needed_seconds=10.0,
        lease_remaining=lambda: lease[0],
        clock=time,
        sleep=time.sleep,
    )
    host_reconciler = HostReconciler(view, writer, updater, recorder, metrics, clock=time)
    events = asyncio.create_task(recorder.run())
    try:
        yield ReconcileBench(api, client, view, hosts, time, host_reconciler, recorder, registry, lease)
    finally:
        events.cancel()
        with suppress(asyncio.CancelledError):
            await events
        await client.aclose()
        await api.stop()
