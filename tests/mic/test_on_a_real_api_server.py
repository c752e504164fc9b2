"""MIC against the real kube-apiserver: patches, finalizers, preconditions and the Lease as that really treats them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, NODES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.mic.cluster import identity_id, set_id, vm_id
from tests.mic.little_cloud import LittleCloud, little_cloud
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

LOCATION = ASSIGNED_IDENTITIES.path("default")


@pytest.fixture
async def cloud(tmp_path: Path, new_plane: NewPlane) -> AsyncIterator[LittleCloud]:
    async with little_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def real(cloud: LittleCloud, new_plane: NewPlane) -> Plane:
    """The real server in place of the emulator, with a VM's node, two nodes of a set, an identity and its binding."""

    def start() -> Plane:
        plane = new_plane()
        apply_definitions(plane)
        provider_ids = {"n0": vm_id("n0")} | {
            f"s{number}": f"{set_id()}/virtualMachines/{number}" for number in range(2)
        }
        for name, host in provider_ids.items():
            plane.api("POST", NODES.path(), {"metadata": {"name": name}, "spec": {"providerID": f"azure://{host}"}})
        spec = {"type": 0, "resourceID": identity_id("demo"), "clientID": "client-demo"}
        create(plane, IDENTITIES, "demo", spec)
        create(plane, BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
        (cloud.folder / "kubeconfig").write_text(Path(plane.kubeconfig).read_text())
        return plane

    cloud.directory.add_identity(identity_id("demo"), client_id="client-demo")
    return await asyncio.to_thread(start)


def create(plane: Plane, kind: Any, name: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}, "spec": spec}
    plane.api("POST", kind.path("default"), document)


def run_pod(plane: Plane, name: str, node: str) -> None:
    meta = {"name": name, "labels": {"aadpodidbinding": "demo"}}
    spec = {
        "nodeName": node,
        "containers": [{"name": "c", "image": "i"}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
    with contextlib.suppress(RuntimeError):  # the service account comes a moment after the namespace
        plane.api("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    plane.api("POST", PODS.path("default"), {"metadata": meta, "spec": spec})


async def assigned(plane: Plane, **expected: str) -> None:
    """Wait until the objects (pod -> status) are exactly these."""
    seen: dict[str, str] = {}
    try:
        async with asyncio.timeout(20.0):
            while True:
                found = await asyncio.to_thread(plane.api, "GET", LOCATION)
                seen = {each["spec"]["pod"]: each["status"]["status"] for each in found["items"]}
                if seen == expected:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"the objects are {seen}") from None


async def test_a_pod_gets_its_identity_and_gives_it_back(cloud: LittleCloud, real: Plane) -> None:
    mic = await cloud.mic()
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await assigned(real, web="Assigned")
    assert cloud.on(vm_id("n0")) == {"demo"}
    await asyncio.to_thread(real.api, "DELETE", PODS.path("default", "web"))
    await assigned(real)
    assert cloud.on(vm_id("n0")) == set()
    assert len(cloud.arm.writes()) == 2
    assert await mic.stop() == 0
    assert "\nE" not in mic.said(), mic.said()
    assert "\nW" not in mic.said(), mic.said()


async def test_a_changed_binding_is_copied_into_the_object_that_stands(cloud: LittleCloud, real: Plane) -> None:
    await cloud.mic()
    await asyncio.to_thread(run_pod, real, "web", "s0")
    await assigned(real, web="Assigned")
    first = await asyncio.to_thread(real.api, "GET", LOCATION)
    await asyncio.to_thread(real.api, "PUT", BINDINGS.path("default", "demo"), await touched(real))
    await assigned(real, web="Assigned")
    async with asyncio.timeout(20.0):
        while True:
            (now,) = (await asyncio.to_thread(real.api, "GET", LOCATION))["items"]
            if now["spec"]["azureBindingRef"]["spec"].get("weight") == 7:
                break
            await asyncio.sleep(0.05)
    assert now["metadata"]["uid"] == first["items"][0]["metadata"]["uid"]
    assert now["status"]["status"] == "Assigned"
    assert len(cloud.arm.writes()) == 1


async def touched(plane: Plane) -> Any:
    """The binding with another weight, which its embedded copy must follow."""
    found = await asyncio.to_thread(plane.api, "GET", BINDINGS.path("default", "demo"))
    found["spec"]["weight"] = 7
    return found


async def test_an_object_changed_by_somebody_else_is_mended(cloud: LittleCloud, real: Plane) -> None:
    await cloud.mic()
    await asyncio.to_thread(run_pod, real, "web", "s1")
    await assigned(real, web="Assigned")
    (held,) = (await asyncio.to_thread(real.api, "GET", LOCATION))["items"]
    held["spec"]["nodename"] = "s0"
    held["metadata"]["labels"] = {}
    held["metadata"]["finalizers"] = []
    path = f"{LOCATION}/{held['metadata']['name']}"
    await asyncio.to_thread(real.api, "PUT", path, held)
    async with asyncio.timeout(20.0):
        while True:
            now = await asyncio.to_thread(real.api, "GET", path)
            if now["spec"]["nodename"] == "s1" and now["metadata"].get("finalizers"):
                break
            await asyncio.sleep(0.05)
    assert now["metadata"]["labels"] == {"nodename": "s1"}
    await asyncio.to_thread(real.api, "DELETE", path)
    # Deleted although it is needed: it goes once another one stands in its place, and nothing leaves the set.
    async with asyncio.timeout(20.0):
        while True:
            items = (await asyncio.to_thread(real.api, "GET", LOCATION))["items"]
            if [each["metadata"]["uid"] != held["metadata"]["uid"] for each in items] == [True]:
                break
            await asyncio.sleep(0.05)
    await assigned(real, web="Assigned")
    assert cloud.on(set_id()) == {"demo"}
    assert len(cloud.arm.writes()) == 1
