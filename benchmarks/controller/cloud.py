"""The real API server with kwok's nodes, Azure's emulators, and the real `python -m mic`; and a witness with a clock.

All servers are on loopback. The witness watches the API server as an ordinary client and records the times of changes.
"""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from podidentity.kube.access import from_kubeconfig
from podidentity.kube.client import Client
from podidentity.kube.errors import NotFound
from podidentity.kube.informer import Informer
from podidentity.kube.paths import object_path
from podidentity.resources import (
    ASSIGNED,
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    NODES,
    PODS,
    AzureAssignedIdentity,
    Kind,
    Pod,
)
from podidentity_sandbox.arm import ArmCall
from tests.conftest import apply_definitions
from tests.support.mic.emulated_cloud import EmulatedCloud, Mic, emulated_cloud
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.testplane.up import Plane

NAMESPACE: Final = "default"
HANDS: Final = 16
"""Concurrent requests of the client that creates pods."""


@dataclass
class Timeline:
    """The times at which each pod was bound, and its object Assigned; monotonic seconds, by the pod's name.

    It is the handler of the objects' informer.
    """

    bound: dict[str, float] = field(default_factory=dict)
    assigned: dict[str, float] = field(default_factory=dict)
    living: set[str] = field(default_factory=set)
    """Existing objects by pod."""

    def upserted(self, _old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> None:
        self.living.add(new.spec.pod)
        if new.status.status == ASSIGNED:
            self.assigned.setdefault(new.spec.pod, time.monotonic())

    def deleted(self, old: AzureAssignedIdentity) -> None:
        self.living.discard(old.spec.pod)

    def waits(self, pods: Iterable[str]) -> list[float]:
        """Return the time from bound to Assigned of each pod, in ascending order."""
        return sorted(self.assigned[name] - self.bound[name] for name in pods)


class _BoundPods:
    """The handler of the pods' informer."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def upserted(self, _old: Pod | None, new: Pod) -> None:
        if new.spec.node_name:
            self._timeline.bound.setdefault(new.metadata.name, time.monotonic())

    def deleted(self, old: Pod) -> None:
        pass


class CaseServers:
    """The servers of the cases. Hosts, nodes and pods have the name of their case, so that cases are independent."""

    def __init__(self, plane: Plane, cloud: EmulatedCloud, client: Client) -> None:
        self.plane = plane
        self.cloud = cloud
        self.client = client
        self.timeline = Timeline()

    def vm(self, name: str, operation_seconds: float) -> str:
        self.cloud.arm.add_vm(vm_id(name), operation_seconds=operation_seconds)
        return f"azure://{vm_id(name)}"

    def scale_set(self, name: str, nodes: int, operation_seconds: float) -> list[str]:
        """Return the provider ids of its nodes."""
        self.cloud.arm.add_vmss(set_id(name), operation_seconds=operation_seconds)
        return [f"azure://{set_id(name)}/virtualMachines/{number}" for number in range(nodes)]

    async def nodes(self, provider_ids: Iterable[str], prefix: str, *, managed: bool = True) -> list[str]:
        """Create a node for each host. Return their names."""
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "250"}
        names = {f"{prefix}-{number}": provider_id for number, provider_id in enumerate(provider_ids)}
        await self.together(
            self._make(
                NODES,
                {
                    "metadata": {"name": name, "labels": {"bench": prefix}},
                    "spec": {"providerID": provider_id},
                    "status": {"allocatable": capacity, "capacity": capacity} if managed else {},
                },
            )
            for name, provider_id in names.items()
        )
        return list(names)

    async def identities(self, names: Iterable[str]) -> None:
        """Create an identity in Azure and in the cluster, and a binding, for each name, which is also the selector."""
        for name in names:
            self.cloud.directory.add_identity(identity_id(name), client_id=f"client-{name}")
            spec = {"type": 0, "resourceID": identity_id(name), "clientID": f"client-{name}"}
            await self._make(IDENTITIES, {"metadata": {"name": name}, "spec": spec})
            await self._make(BINDINGS, {"metadata": {"name": name}, "spec": {"azureIdentity": name, "selector": name}})

    async def pods(self, placed: Iterable[tuple[str, str, str]]) -> None:
        """Create pods: (name, node, identity). The part of a name before the last hyphen is the case."""
        await self.together(
            self._make(
                PODS,
                {
                    "metadata": {"name": name, "labels": {BINDING_LABEL: identity, "bench": name.rpartition("-")[0]}},
                    "spec": POD_SPEC | {"nodeName": node},
                },
            )
            for name, node, identity in placed
        )

    async def remove_pods(self, names: Iterable[str]) -> None:
        await self.together(self.client.delete(PODS, NAMESPACE, name) for name in names)

    async def remove_case(self, case: str) -> None:
        """Delete the pods of a case in one request, without a grace period."""
        body = b'{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}'
        path = object_path(PODS, NAMESPACE)
        await self.client.request("DELETE", path, params={"labelSelector": f"bench={case}"}, body=body)

    async def make_objects(self, kind: Kind[Any], documents: Iterable[dict[str, Any]]) -> None:
        await self.together(self._make(kind, document) for document in documents)

    async def _make(self, kind: Kind[Any], document: dict[str, Any]) -> None:
        await self.client.create(kind, NAMESPACE if kind.namespaced else "", document)

    async def together(self, work: Iterable[Coroutine[Any, Any, Any]]) -> None:
        """Run all calls, HANDS concurrently."""
        left = iter(work)

        async def one() -> None:
            for call in left:
                await call

        async with asyncio.TaskGroup() as tasks:
            for _ in range(HANDS):
                tasks.create_task(one())

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 180.0) -> None:
        """Wait until *holds*; raises TimeoutError with *what*."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come true in {seconds:g} s")
            for mic in self.cloud.running:
                if mic.process.returncode not in {None, 0, -9}:
                    raise RuntimeError(f"mic ended with {mic.process.returncode}: {mic.read_log()[-2000:]}")
            await asyncio.sleep(0.005)

    async def all_assigned(self, pods: Iterable[str], seconds: float = 180.0) -> None:
        wanted = set(pods)
        await self.until(lambda: wanted <= self.timeline.assigned.keys(), "all Assigned", seconds)

    async def all_gone(self, pods: Iterable[str], seconds: float = 180.0) -> None:
        wanted = set(pods)
        await self.until(lambda: wanted.isdisjoint(self.timeline.living), "all objects gone", seconds)

    def calls(self, method: str, *host_ids: str) -> list[ArmCall]:
        """Return the calls received for exactly these VMs or sets."""
        wanted = {host_id.lower() for host_id in host_ids}
        return [call for call in self.cloud.arm.calls if call.method == method and call.path.lower() in wanted]

    @asynccontextmanager
    async def mic(self, *flags: str) -> AsyncIterator[Mic]:
        """Start a MIC and wait until it leads; stop it at the end."""
        running = await self.cloud.mic(*flags)
        try:
            yield running
        finally:
            if running.process.returncode is None:
                await running.stop()
            self.cloud.running.clear()


POD_SPEC: Final[dict[str, Any]] = {
    "containers": [{"name": "c", "image": "none"}],
    "terminationGracePeriodSeconds": 0,
    "automountServiceAccountToken": False,
}


@asynccontextmanager
async def case_servers(folder: Path, *, kwok: bool) -> AsyncIterator[CaseServers]:
    """Start a new cluster and a new Azure. With *kwok* pods are scheduled, run and end as with kubelets."""
    # Its one worker takes 10 ms for a pod. The case measures whether MIC has the same throughput.
    workers = [f"--delete-collection-workers={HANDS}"]
    plane = await asyncio.to_thread(lambda: Plane(scheduler=kwok, kwok=kwok, apiserver_flags=workers))
    try:
        await asyncio.to_thread(apply_definitions, plane)
        async with emulated_cloud(folder) as cloud:
            (folder / "kubeconfig").write_text(Path(plane.kubeconfig).read_text())
            access = await from_kubeconfig(plane.kubeconfig)
            async with Client(access, user_agent="benchmark", timeout_seconds=60.0) as client:
                made = CaseServers(plane, cloud, client)
                watches: list[Informer[Any]] = [
                    Informer(client, PODS, _BoundPods(made.timeline), label_selector=BINDING_LABEL),
                    Informer(client, ASSIGNED_IDENTITIES, made.timeline),
                ]
                running = [asyncio.ensure_future(informer.run()) for informer in watches]
                try:
                    for informer in watches:
                        await informer.synced()
                    await _service_account(made)
                    yield made
                finally:
                    for task in running:
                        task.cancel()
                    await asyncio.gather(*running, return_exceptions=True)
    finally:
        await asyncio.to_thread(plane.stop)


async def _service_account(made: CaseServers) -> None:
    """Wait for the service account, which pods need. Controllers create it shortly after the namespace."""
    async with asyncio.timeout(30.0):
        while True:
            try:
                await made.client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")
            except NotFound:
                await asyncio.sleep(0.05)
            else:
                return


@dataclass(frozen=True, slots=True)
class Usage:
    """The state of a process at one time."""

    cpu_seconds: float
    rss_mib: float
    peak_mib: float
    wake_ups: int
    """Voluntary context switches of all threads."""


def usage(mic: Mic) -> Usage:
    folder = Path(f"/proc/{mic.process.pid}")
    on_cpu = sum(int(file.read_text().split()[0]) for file in folder.glob("task/*/schedstat"))
    threads = [file.read_text() for file in folder.glob("task/*/status")]
    wake_ups = sum(int(_fields(thread)["voluntary_ctxt_switches"]) for thread in threads)
    status = _fields(folder.joinpath("status").read_text())
    return Usage(
        on_cpu / 1e9,
        int(folder.joinpath("statm").read_text().split()[1]) * resource.getpagesize() / 2**20,
        int(status["VmHWM"].split()[0]) / 1024,
        wake_ups,
    )


def _fields(status: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in status.splitlines())


def lease_holder(document: bytes) -> str:
    """Return the holder of the Lease; empty if it is released."""
    spec: dict[str, Any] = json.loads(document).get("spec") or {}
    return str(spec.get("holderIdentity") or "")
