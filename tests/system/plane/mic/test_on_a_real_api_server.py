"""MIC and its type upgrade against the real kube-apiserver: patches, finalizers, preconditions and definitions."""

import asyncio
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, PODS, Kind
from podidentity.version import VERSION
from tests.conftest import NewPlane, apply_definitions
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.real_server import LOCATION, add_node, assigned, bind, create, in_place_of_the_emulator, run_pod
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.testplane import up
from tests.support.testplane.up import Plane
from tests.support.v1beta1_definitions import leave_v1beta1_definitions, served_definitions
from tests.support.waiting import until

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


REFERENCE = ROOT / "tests" / "support" / "mic" / "reference" / "crds.yaml"
RECORD = "/api/v1/namespaces/default/configmaps/aad-pod-identity-config"
NAME = "web-default-demo"
API_VERSION = f"{GROUP}/v1"


async def started(
    cloud: EmulatedCloud, new_plane: NewPlane, *definitions: Path, define: Callable[..., None] = apply_definitions
) -> Plane:
    """A real server in place of the emulator, with the nodes of two VMs and nothing else."""

    def prepare(plane: Plane) -> None:
        for name in ("n0", "n1"):
            add_node(plane, name, vm_id(name))

    return await in_place_of_the_emulator(
        cloud, new_plane, prepare, *definitions, identities=("demo", "later"), define=define
    )


def put_on(cloud: EmulatedCloud, identity: str, vm: str) -> None:
    """Attach the identity to the VM before MIC starts."""
    machine = cloud.arm.vm(vm_id(vm))
    found = cloud.directory.identity(identity_id(identity))
    assert found is not None
    machine.types = frozenset({"UserAssigned"})
    machine.user_assigned[identity_id(identity).lower()] = found
    machine.attached_at[identity_id(identity).lower()] = 0.0


async def until_read(holds: Callable[[], Any]) -> Any:
    """Wait until *holds*, a blocking read of the server, returns a value, and return it."""
    return await until(lambda: asyncio.to_thread(holds), ignoring=RuntimeError)


def stored(plane: Plane, kind: Kind[Any], name: str) -> Any:
    return plane.api("GET", kind.path("default", name))


def in_old_field_names(plane: Plane) -> None:
    """A pod whose identity has long been assigned, by a program from before v1.6.0."""
    create(plane, IDENTITIES, "demo", {"type": 0, "ResourceID": identity_id("demo"), "ClientID": "client-demo"})
    create(plane, BINDINGS, "demo", {"AzureIdentity": "demo", "Selector": "demo", "Weight": 0})
    create(plane, EXCEPTIONS, "demo", {"PodLabels": {"app": "x"}})
    run_pod(plane, "web", "n0")
    copies = [(kind, stored(plane, kind, "demo")) for kind in (IDENTITIES, BINDINGS)]
    identity, binding = (
        {"metadata": {**{key: copy["metadata"][key] for key in ("name", "namespace", "uid")}}, "spec": copy["spec"]}
        for _, copy in copies
    )
    metadata = {
        "name": NAME,
        "labels": {"nodename": "n0"},
        "annotations": {"example.com/ClientID": "mine"},
        "finalizers": ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"],
    }
    spec = {
        "azureidentityref": identity,
        "azurebindingref": binding,
        "Pod": "web",
        "podnamespace": "default",
        "nodename": "n0",
        "Replicas": 1,
    }
    document = {"apiVersion": API_VERSION, "kind": ASSIGNED_IDENTITIES.name, "metadata": metadata, "spec": spec}
    document["status"] = {"status": "Assigned", "availableReplicas": 1}
    plane.api("POST", ASSIGNED_IDENTITIES.path("default"), document)


async def test_mic_works_with_definitions_from_v1beta1_before_and_after_they_are_replaced(
    cloud: EmulatedCloud, new_plane: NewPlane
) -> None:
    real = await started(cloud, new_plane, define=leave_v1beta1_definitions)
    put_on(cloud, "demo", "n0")
    await asyncio.to_thread(in_old_field_names, real)
    unknown: dict[str, Any] = {"spec": {"unknown": {"a": [1]}}, "unknown": 1}
    path = IDENTITIES.path("default", "demo")
    await asyncio.to_thread(real.api, "PATCH", path, unknown, "application/merge-patch+json")
    old = await asyncio.to_thread(stored, real, ASSIGNED_IDENTITIES, NAME)
    mic = await cloud.mic()
    await until_read(lambda: real.api("GET", RECORD)["data"] == {"type-upgrade-status": VERSION})
    rewritten = await asyncio.to_thread(stored, real, ASSIGNED_IDENTITIES, NAME)
    kept = ("annotations", "labels", "finalizers", "uid", "creationTimestamp")
    assert {key: rewritten["metadata"][key] for key in kept} == {key: old["metadata"][key] for key in kept}
    assert rewritten["metadata"]["generation"] == old["metadata"]["generation"] + 1, "it is written once"
    identity, binding = rewritten["spec"]["azureIdentityRef"], rewritten["spec"]["azureBindingRef"]
    assert identity["spec"] == {"type": 0, "resourceID": identity_id("demo"), "clientID": "client-demo"}
    assert binding["spec"] == {"azureIdentity": "demo", "selector": "demo", "weight": 0}
    assert (await asyncio.to_thread(stored, real, IDENTITIES, "demo")).items() >= {"unknown": 1}.items()
    assert await mic.stop() == 0
    every = ((IDENTITIES, "demo"), (BINDINGS, "demo"), (EXCEPTIONS, "demo"), (ASSIGNED_IDENTITIES, NAME))
    for kind, name in every:
        patch = (kind.path("default", name), {"unknown": 1}, "application/merge-patch+json")
        await asyncio.to_thread(real.api, "PATCH", *patch)
        assert "unknown" in await asyncio.to_thread(stored, real, kind, name)

    # docs/migration.md, for an installation without helm.
    await asyncio.to_thread(apply_definitions, real)
    await asyncio.to_thread(prune, real)
    assert not any(
        each["spec"].get("preserveUnknownFields") for each in await asyncio.to_thread(served_definitions, real)
    )
    # The server starts the storage of each kind again, one after the other, and returns 429 in that time.
    await until_read(lambda: not any("unknown" in stored(real, kind, name) for kind, name in every))
    again = await cloud.mic()
    spec = {"type": 0, "resourceID": identity_id("later"), "clientID": "client-later"}
    await asyncio.to_thread(create, real, IDENTITIES, "later", spec)
    await asyncio.to_thread(create, real, BINDINGS, "later", {"azureIdentity": "later", "selector": "later"})
    await asyncio.to_thread(run_pod, real, "other", "n1", "later")
    await assigned(real, web="Assigned", other="Assigned")
    found = await asyncio.to_thread(stored, real, IDENTITIES, "demo")
    assert found["spec"] == {**identity["spec"], **unknown["spec"]}
    now = await asyncio.to_thread(stored, real, ASSIGNED_IDENTITIES, NAME)
    assert (now["metadata"]["uid"], now["spec"]) == (old["metadata"]["uid"], rewritten["spec"])
    assert cloud.arm.writes(vm_id("n0")) == [], "no identity is attached again or detached"
    assert await again.stop() == 0
    for program in (mic, again):
        assert "drop fields" not in program.read_log()
        assert "\nE" not in program.read_log(), program.read_log()
        assert "\nW" not in program.read_log(), program.read_log()


def prune(plane: Plane) -> None:
    """Run the commands by which `podidctl doctor` and docs/migration.md end the preservation of unknown fields."""
    for each in served_definitions(plane):
        patch = ("--type=merge", "-p", '{"spec":{"preserveUnknownFields":false}}')
        kubectl = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}"]
        subprocess.run([*kubectl, "patch", "crd", each["metadata"]["name"], *patch], check=True, capture_output=True)


async def assigns_with_the_go_implementations_definitions(cloud: EmulatedCloud, real: Plane) -> None:
    """`helm upgrade` keeps these definitions."""
    spec = {"type": 0, "resourceID": identity_id("demo"), "clientID": "client-demo", "auxiliaryTenantIDs": None}
    await asyncio.to_thread(create, real, IDENTITIES, "demo", spec)
    await asyncio.to_thread(create, real, IDENTITIES, "fed", {"type": 3, "clientID": "c", "tenantID": "contoso.com"})
    for name in ("demo", "fed"):
        await asyncio.to_thread(create, real, BINDINGS, name, {"azureIdentity": name, "selector": name})
        await asyncio.to_thread(run_pod, real, f"web-{name}", "n0", name)
    await assigned(real, **{"web-demo": "Assigned", "web-fed": "Assigned"})
    assert cloud.on(vm_id("n0")) == {"demo"}
    path = BINDINGS.path("default", "demo")
    await asyncio.to_thread(real.api, "PATCH", path, {"spec": {"weight": 7}}, "application/merge-patch+json")
    name = "web-demo-default-demo"
    copied = await until_read(
        lambda: (
            (found := stored(real, ASSIGNED_IDENTITIES, name))["spec"]["azureBindingRef"]["spec"].get("weight") == 7
            and found
        )
    )
    assert copied["status"]["status"] == "Assigned"
    for each in ("demo", "fed"):
        await asyncio.to_thread(real.api, "DELETE", PODS.path("default", f"web-{each}"))
    await assigned(real)
    assert cloud.on(vm_id("n0")) == set()


async def test_spellings_restored_by_a_change_of_definitions_are_upgraded_on_demand(
    cloud: EmulatedCloud, new_plane: NewPlane
) -> None:
    real = await started(cloud, new_plane)
    await asyncio.to_thread(create, real, EXCEPTIONS, "old", {"PodLabels": {"app": "x"}})
    await asyncio.to_thread(apply_definitions, real, REFERENCE)
    await until_read(lambda: stored(real, EXCEPTIONS, "old")["spec"] == {})
    first = await cloud.mic()
    await until_read(lambda: real.api("GET", RECORD))
    (line,) = [line for line in first.read_log().splitlines() if "drop fields" in line]
    assert "azureidentities, azureidentitybindings, azurepodidentityexceptions, azureassignedidentities" in line
    await assigns_with_the_go_implementations_definitions(cloud, real)
    assert await first.stop() == 0
    assert "\nE" not in first.read_log(), first.read_log()
    # The steps of the log line: install the new definitions, repeat the upgrade. The administrator's MIC needs no role.
    await asyncio.to_thread(apply_definitions, real)
    await until_read(lambda: stored(real, EXCEPTIONS, "old")["spec"] == {"PodLabels": {"app": "x"}})
    await asyncio.to_thread(real.api, "DELETE", RECORD)
    await cloud.mic()
    assert (await asyncio.to_thread(stored, real, EXCEPTIONS, "old"))["spec"] == {"podLabels": {"app": "x"}}
