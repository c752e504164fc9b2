"""MIC against the real kube-apiserver: patches, finalizers, preconditions and the Lease."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from podidentity.resources import BINDINGS, PODS
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.real_server import LOCATION, add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.waiting import until
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane


@pytest.fixture
async def real(cloud: EmulatedCloud, new_plane: NewPlane) -> Plane:
    """The real server in place of the emulator, with a VM's node, two nodes of a set, an identity and its binding."""

    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        for number in range(2):
            add_node(plane, f"s{number}", f"{set_id()}/virtualMachines/{number}")
        bind(plane, "demo")

    return await in_place_of_the_emulator(cloud, new_plane, prepare)


async def items(plane: Plane, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """Return the AzureAssignedIdentities as soon as *holds* returns true for them."""

    async def read() -> list[Any]:
        return list((await asyncio.to_thread(plane.api, "GET", LOCATION))["items"])

    return await until(read, "AzureAssignedIdentities", holds=holds)


async def test_an_object_changed_by_another_writer_is_repaired(cloud: EmulatedCloud, real: Plane) -> None:
    await cloud.mic()
    await asyncio.to_thread(run_pod, real, "web", "s1")
    await assigned(real, web="Assigned")
    (existing,) = (await asyncio.to_thread(real.api, "GET", LOCATION))["items"]
    existing["spec"]["nodename"] = "s0"
    existing["metadata"]["labels"] = {}
    existing["metadata"]["finalizers"] = []
    path = f"{LOCATION}/{existing['metadata']['name']}"
    await asyncio.to_thread(real.api, "PUT", path, existing)
    now = await until(
        lambda: asyncio.to_thread(real.api, "GET", path),
        "the repair",
        holds=lambda it: it["spec"]["nodename"] == "s1" and it["metadata"].get("finalizers"),
    )
    assert now["metadata"]["labels"] == {"nodename": "s1"}
    await asyncio.to_thread(real.api, "DELETE", path)
    # Deleted although it is needed: MIC creates another one before it goes, and detaches nothing.
    await items(
        real, lambda found: [each["metadata"]["uid"] != existing["metadata"]["uid"] for each in found] == [True]
    )
    await assigned(real, web="Assigned")
    assert cloud.on(set_id()) == {"demo"}
    assert len(cloud.arm.writes()) == 1


async def test_a_refused_identity_is_reported_on_its_binding_its_pod_and_its_object(
    cloud: EmulatedCloud, real: Plane
) -> None:
    cloud.arm.marked.unauthorized.add(identity_id("demo").lower())
    await cloud.mic("--update-user-msi-retry-interval=10ms")
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await assigned(real, web="Created")
    (existing,) = (await asyncio.to_thread(real.api, "GET", LOCATION))["items"]
    pod = await asyncio.to_thread(real.api, "GET", PODS.path("default", "web"))
    binding = await asyncio.to_thread(real.api, "GET", BINDINGS.path("default", "demo"))
    for document in (binding, pod, existing):
        # By uid, as `kubectl describe` asks.
        path = f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.uid={document['metadata']['uid']}"
        read = functools.partial(asyncio.to_thread, real.api, "GET", path)
        events = (await until(read, "Events", holds=lambda found: found["items"]))["items"]
        assert {each["reason"] for each in events} == {"binding apply error"}
        assert "Managed Identity Operator" in events[0]["message"]
    await until(
        lambda: asyncio.to_thread(real.api, "GET", f"{LOCATION}/{existing['metadata']['name']}"),
        "the object's message",
        holds=lambda it: (
            "Managed Identity Operator" in it["metadata"]["annotations"].get("aadpodidentity.k8s.io/message", "")
        ),
    )
