"""MIC and its type upgrade against the real kube-apiserver, with definitions of several origins."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, Kind
from podidentity.version import VERSION
from tests.conftest import NewPlane, apply_definitions
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.real_server import add_node, assigned, create, in_place_of_the_emulator, run_pod
from tests.support.objects import identity_id, vm_id
from tests.support.testplane import up
from tests.support.testplane.up import Plane
from tests.support.v1beta1_definitions import leave_v1beta1_definitions, served_definitions
from tests.support.waiting import until

pytestmark = pytest.mark.plane


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
    existing = cloud.directory.identity(identity_id(identity))
    assert existing is not None
    machine.types = frozenset({"UserAssigned"})
    machine.user_assigned[identity_id(identity).lower()] = existing
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
    identity, binding = (
        {"metadata": {key: copy["metadata"][key] for key in ("name", "namespace", "uid")}, "spec": copy["spec"]}
        for copy in (stored(plane, kind, "demo") for kind in (IDENTITIES, BINDINGS))
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
        definition["spec"].get("preserveUnknownFields")
        for definition in await asyncio.to_thread(served_definitions, real)
    )
    # The server starts the storage of each kind again, one after the other, and returns 429 in that time.
    await until_read(lambda: not any("unknown" in stored(real, kind, name) for kind, name in every))
    again = await cloud.mic()
    spec = {"type": 0, "resourceID": identity_id("later"), "clientID": "client-later"}
    await asyncio.to_thread(create, real, IDENTITIES, "later", spec)
    await asyncio.to_thread(create, real, BINDINGS, "later", {"azureIdentity": "later", "selector": "later"})
    await asyncio.to_thread(run_pod, real, "other", "n1", "later")
    await assigned(real, web="Assigned", other="Assigned")
    stored_identity = await asyncio.to_thread(stored, real, IDENTITIES, "demo")
    assert stored_identity["spec"] == {**identity["spec"], **unknown["spec"]}
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
    for definition in served_definitions(plane):
        patch = ("--type=merge", "-p", '{"spec":{"preserveUnknownFields":false}}')
        kubectl = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}"]
        subprocess.run(
            [*kubectl, "patch", "crd", definition["metadata"]["name"], *patch], check=True, capture_output=True
        )


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
    assert await first.stop() == 0
    assert "\nE" not in first.read_log(), first.read_log()
    # The steps of the log line: install the new definitions, repeat the upgrade. The administrator's MIC needs no role.
    await asyncio.to_thread(apply_definitions, real)
    await until_read(lambda: stored(real, EXCEPTIONS, "old")["spec"] == {"PodLabels": {"app": "x"}})
    await asyncio.to_thread(real.api, "DELETE", RECORD)
    await cloud.mic()
    assert (await asyncio.to_thread(stored, real, EXCEPTIONS, "old"))["spec"] == {"podLabels": {"app": "x"}}
