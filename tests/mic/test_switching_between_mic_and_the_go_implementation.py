"""A rolling update from the Go implementation to `python -m mic`, back, and again, on the real API server.

A fake replaces the Go implementation. It elects a leader with client-go's rules, and leaves the objects and the state
of Azure that the Go implementation leaves.
"""

import asyncio
from typing import Any

import pytest

from podidentity.kube.access import from_kubeconfig
from podidentity.kube.client import Client
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, FINALIZER, IDENTITIES, PODS
from tests.conftest import NewPlane
from tests.contract.go_implementation_lock import ReferenceElector, record_of
from tests.mic.emulated_cloud import EmulatedCloud, Mic
from tests.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import identity_id, vm_id
from tests.support.waiting import until
from tests.testplane.up import Plane

pytestmark = [pytest.mark.plane, pytest.mark.nightly]

NAME = "aad-pod-identity-mic"
ENDPOINTS = f"/api/v1/namespaces/default/endpoints/{NAME}"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
SECONDS = 6.0


@pytest.fixture
async def real(cloud: EmulatedCloud, new_plane: NewPlane) -> Plane:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        for name in ("demo", "other"):
            bind(plane, name)

    return await in_place_of_the_emulator(cloud, new_plane, prepare, identities=("demo", "other"))


class Reference:
    """A replica of the Go implementation: its election, and its objects for a pod."""

    def __init__(self, plane: Plane, client: Client) -> None:
        self.plane = plane
        self.elector = ReferenceElector(client, "default", NAME, seconds=SECONDS)
        self.process = asyncio.create_task(self.elector.run())

    async def leads(self) -> None:
        await asyncio.wait_for(self.elector.leading.wait(), 15)

    async def killed(self) -> None:
        self.process.cancel()
        await asyncio.gather(self.process, return_exceptions=True)

    async def assign(self, cloud: EmulatedCloud, pod: str, name: str) -> None:
        """Attach the identity to the VM and write the object, then set it to Assigned by a separate patch."""
        identity = cloud.directory.identity(identity_id(name))
        assert identity is not None
        if name not in cloud.on(vm_id("n0")):
            cloud.arm.vm(vm_id("n0")).attach(identity)
        await asyncio.to_thread(self._write, pod, name)

    def _write(self, pod: str, name: str) -> None:
        embedded = {
            field: self.plane.api("GET", kind.path("default", name))
            for field, kind in (("azureIdentityRef", IDENTITIES), ("azureBindingRef", BINDINGS))
        }
        document = {
            "apiVersion": ASSIGNED_IDENTITIES.api_version,
            "kind": ASSIGNED_IDENTITIES.name,
            "metadata": {
                "name": f"{pod}-default-{name}",
                "creationTimestamp": None,
                "labels": {"nodename": "n0"},
                "finalizers": [FINALIZER],
            },
            "spec": {**embedded, "pod": pod, "podNamespace": "default", "nodename": "n0"},
            "status": {"status": "Created", "availableReplicas": 1},
        }
        self.plane.api("POST", ASSIGNED_IDENTITIES.path("default"), document)
        self.confirm(f"{pod}-default-{name}")

    def confirm(self, name: str) -> Any:
        operations = [{"op": "replace", "path": "/status/status", "value": "Assigned"}]
        path = ASSIGNED_IDENTITIES.path("default", name)
        return self.plane.api("PATCH", path, operations, "application/json-patch+json")

    def finds_fault_with(self) -> list[str]:
        """Return the objects that it would set back to Created and assign again, by its own rule (matchAssignedID)."""
        kinds = {"azureIdentityRef": IDENTITIES, "azureBindingRef": BINDINGS}
        faulty = []
        for each in self.plane.api("GET", ASSIGNED_IDENTITIES.path("default"))["items"]:
            spec = each["spec"]
            copies = {field: spec[field]["metadata"] for field in kinds}
            live = {
                field: self.plane.api("GET", kind.path("default", copies[field]["name"]))["metadata"]
                for field, kind in kinds.items()
            }
            agree = all(copies[field].get("resourceVersion") == live[field]["resourceVersion"] for field in kinds)
            name = f"{spec['pod']}-{spec['podNamespace']}-{copies['azureIdentityRef']['name']}"
            if not agree or spec["nodename"] != "n0" or each["metadata"]["name"] != name:
                faulty.append(each["metadata"]["name"])
        return faulty


async def get(plane: Plane, path: str) -> Any:
    return await asyncio.to_thread(plane.api, "GET", path)


async def start(cloud: EmulatedCloud) -> Mic:
    return await cloud.mic(f"--leader-election-duration={SECONDS}s", active=False)


async def test_pods_keep_their_identities_in_both_directions(cloud: EmulatedCloud, real: Plane) -> None:
    async with Client(await from_kubeconfig(real.kubeconfig), user_agent="reference") as client:
        theirs = Reference(real, client)
        try:
            await there(cloud, real, theirs)
            theirs = await back(cloud, real, client)
            await there_again(cloud, real, theirs)
        finally:
            await theirs.killed()


async def there(cloud: EmulatedCloud, real: Plane, theirs: Reference) -> None:
    await theirs.leads()
    record = {"metadata": {"name": "aad-pod-identity-config"}, "data": {"type-upgrade-status": "v1.8.17"}}
    await asyncio.to_thread(real.api, "POST", "/api/v1/namespaces/default/configmaps", record)
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await theirs.assign(cloud, "web", "demo")
    before = await get(real, ASSIGNED_IDENTITIES.path("default", "web-default-demo"))
    ours = await start(cloud)
    await asyncio.to_thread(run_pod, real, "new", "n0", "other")
    await until(lambda: 'waiting reason="held by reference"' in ours.read_log())
    await asyncio.sleep(SECONDS)
    assert await ours.page("/healthz") == "Not Active"
    assert 'waiting reason="held by reference" resource="Endpoints default/aad-pod-identity-mic"' in ours.read_log()
    assert not (await get(real, LEASES))["items"]
    assert not cloud.arm.calls
    await theirs.killed()
    await assigned(real, web="Assigned", new="Assigned")
    assert theirs.elector.remaining_seconds() == 0
    assert await get(real, ASSIGNED_IDENTITIES.path("default", "web-default-demo")) == before, "it was as it should be"
    assert cloud.on(vm_id("n0")) == {"demo", "other"}
    (update,) = cloud.arm.writes()
    assert [key.rpartition("/")[2] for key in update.body["identity"]["userAssignedIdentities"]] == ["other"]
    holder = record_of(await get(real, ENDPOINTS))["holderIdentity"]
    assert holder == (await get(real, f"{LEASES}/{NAME}"))["spec"]["holderIdentity"] != ""


async def back(cloud: EmulatedCloud, real: Plane, client: Client) -> Reference:
    theirs = Reference(real, client)
    (ours,) = cloud.running
    await asyncio.sleep(1.5 * SECONDS)
    assert not theirs.elector.leading.is_set()
    assert await ours.page("/healthz") == "Active"
    assert await ours.stop() == 0
    await theirs.leads()
    await assigned(real, web="Assigned", new="Assigned")
    assert await asyncio.to_thread(theirs.finds_fault_with) == []
    patched = await asyncio.to_thread(theirs.confirm, "new-default-other")
    assert patched["status"] == {"status": "Assigned", "availableReplicas": 1}
    await asyncio.to_thread(run_pod, real, "third", "n0", "other")
    await theirs.assign(cloud, "third", "other")
    assert len(cloud.arm.writes()) == 1
    return theirs


async def there_again(cloud: EmulatedCloud, real: Plane, theirs: Reference) -> None:
    cloud.running.clear()
    ours = await start(cloud)
    await theirs.killed()
    await theirs.elector.release()
    await cloud.active(ours)
    await asyncio.to_thread(real.api, "DELETE", PODS.path("default", "new"))
    await asyncio.to_thread(real.api, "DELETE", PODS.path("default", "web"))
    await assigned(real, third="Assigned")
    assert cloud.on(vm_id("n0")) == {"other"}, "MIC detaches exactly the identities that the Go implementation attached"
    assert [len(each.body["identity"]["userAssignedIdentities"]) for each in cloud.arm.writes()] == [1, 1]
    assert await ours.stop() == 0
