"""A cluster as the Go implementation's chart 4.1.18 leaves it, `helm upgrade` to this chart, and the way back.

The old chart has no programs. The test writes the objects and Azure's state that the Go implementation's MIC leaves:
definitions, assigned identities, the record of its type upgrade, and the leader lock of a MIC that has ended.
"""

import asyncio
import json
import operator
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, FINALIZER, IDENTITIES, PODS
from podidentity_sandbox.azure import COMPUTE, identity_id
from podidentity_sandbox.directory import ManagedIdentity
from tests.conftest import NewPlane, apply_definitions
from tests.contract.go_implementation_lock import ANNOTATION
from tests.deploy.go_implementation_chart import write_chart
from tests.e2e.e2e_cluster import NAMESPACE, RELEASE, ROOT, VALUES, Cluster, cluster, gets_a_token
from tests.integration.identity_requests import NODE
from tests.support.waiting import until
from tests.testplane.up import Plane
from tests.v1beta1_definitions import leave_v1beta1_definitions, served_definitions

pytestmark = [pytest.mark.root, pytest.mark.plane]
DEFINITIONS = ROOT / "tests" / "mic" / "reference" / "crds.yaml"
LOCK = {"namespace": NAMESPACE, "name": "aad-pod-identity-mic"}
RECORD = f"/api/v1/namespaces/{NAMESPACE}/configmaps/aad-pod-identity-config"
ASSIGNED = ASSIGNED_IDENTITIES.path("default", "demo-default-demo")
FORMER_LEADER = "aad-pod-identity-mic-7d9f-x2x4z"
VM = f"{COMPUTE}/virtualMachines/{NODE}"


def leave_v1_definitions(plane: Plane) -> None:
    """Apply the definitions of the Go implementation's last charts."""
    apply_definitions(plane, DEFINITIONS)


@pytest.mark.parametrize(
    "leave_definitions", [pytest.param(leave_v1_definitions, marks=pytest.mark.nightly), leave_v1beta1_definitions]
)
async def test_the_upgrade_adopts_all_assignments_and_pods_get_tokens_immediately(
    new_plane: NewPlane, tmp_path: Path, leave_definitions: Callable[[Plane], None]
) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    await asyncio.to_thread(leave_definitions, plane)
    async with cluster(plane, tmp_path, "helm3") as here:
        kubelets = attached_by_others(here)
        await here.helm("install", RELEASE, str(write_chart(tmp_path, release=RELEASE)), *WHERE, "--create-namespace")
        await here.kubectl("apply", "--filename", str(ROOT / "deploy" / "demo"))
        await here.kubectl("wait", "pod/demo", "--for=condition=Ready", "--timeout=30s")
        await asyncio.to_thread(leave_objects, plane)
        before, record = await get(plane, ASSIGNED), await get(plane, RECORD)
        machine = here.sandbox.azure.arm.vm(VM)
        system, attached = machine.system_assigned, set(machine.identities)

        await here.install("upgrade", VALUES)
        await gets_a_token(here)
        await leads(plane)
        definitions = await asyncio.to_thread(served_definitions, plane)
        assert not any(each["spec"].get("preserveUnknownFields") for each in definitions)
        after = await get(plane, ASSIGNED)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert (after["spec"], after["status"]) == (before["spec"], before["status"])
        assert await get(plane, RECORD) == record
        assert here.sandbox.azure.arm.writes() == [], "no identity is attached or detached"
        assert (machine.system_assigned, set(machine.identities)) == (system, attached)

        await here.helm("rollback", RELEASE, "1", *WHERE)
        await ended(plane)
        last = await get(plane, ASSIGNED)
        assert (last["spec"], last["status"]) == (before["spec"], before["status"]), (
            "the Go implementation finds its objects"
        )
        assert (await lock(plane))["holderIdentity"] == "", "its MIC need not wait"
        assert here.sandbox.azure.arm.writes() == []

        await here.install("upgrade", VALUES)
        await gets_a_token(here)
        await here.kubectl("delete", "pod", "demo", "--timeout=30s")
        await until(lambda: here.names("azureassignedidentities"), "no assignment", holds=operator.not_)
        assert {each.lower() for each in machine.identities} == {kubelets.resource_id.lower()}, (
            "MIC detaches the identities that the Go implementation attached"
        )
        assert machine.system_assigned == system


WHERE = ("--namespace", NAMESPACE)


def attached_by_others(here: Cluster) -> ManagedIdentity:
    """Attach the identity of the kubelet, as AKS does, and the demo's, as the Go implementation's MIC did. Return the
    former.
    """
    azure = here.sandbox.azure
    machine = azure.arm.vm(VM)
    kubelets = azure.directory.add_identity(identity_id("agentpool"))
    for each in (kubelets, azure.demo):
        machine.attach(each)
    return kubelets


def leave_objects(plane: Plane) -> None:
    """Write the objects of the Go implementation's MIC. reference: pkg/mic/mic.go, pkg/crd/crd.go."""
    identity, binding = (
        plane.api("GET", kind.path("default", name))
        for kind, name in ((IDENTITIES, "demo"), (BINDINGS, "demo-binding"))
    )
    document = {
        "apiVersion": ASSIGNED_IDENTITIES.api_version,
        "kind": ASSIGNED_IDENTITIES.name,
        "metadata": {
            "name": "demo-default-demo",
            "labels": {"nodename": NODE, "podname": "demo"},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "azureIdentityRef": identity,
            "azureBindingRef": binding,
            "pod": "demo",
            "podNamespace": "default",
            "nodename": NODE,
            "replicas": 1,
        },
        "status": {"status": "Assigned", "availableReplicas": 1},
    }
    plane.api("POST", ASSIGNED_IDENTITIES.path("default"), document)
    record = {"metadata": {"name": "aad-pod-identity-config"}, "data": {"type-upgrade-status": "v1.8.17"}}
    plane.api("POST", RECORD.rpartition("/")[0], record)
    ended_at = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    lock_record = {
        "holderIdentity": FORMER_LEADER,
        "leaseDurationSeconds": 2,
        "acquireTime": ended_at,
        "renewTime": ended_at,
        "leaderTransitions": 3,
    }
    metadata = {**LOCK, "annotations": {ANNOTATION: json.dumps(lock_record)}}
    plane.api("POST", f"/api/v1/namespaces/{NAMESPACE}/endpoints", {"metadata": metadata})


async def get(plane: Plane, path: str) -> Any:
    return await asyncio.to_thread(plane.api, "GET", path)


async def leads(plane: Plane) -> None:
    """Wait until the new MIC has taken the lock of the former one."""
    await until(lambda: lock(plane), "a leader", holds=lambda record: record["holderIdentity"] != FORMER_LEADER)


async def lock(plane: Plane) -> Any:
    found = await get(plane, f"/api/v1/namespaces/{NAMESPACE}/endpoints/{LOCK['name']}")
    return json.loads(found["metadata"]["annotations"][ANNOTATION])


async def ended(plane: Plane) -> None:
    """Wait until no MIC and no NMI of this chart runs."""

    async def images() -> set[str]:
        pods = (await get(plane, PODS.path(NAMESPACE)))["items"]
        return {container["image"] for pod in pods for container in pod["spec"]["containers"]}

    await until(images, "the programs end", holds={"theirs"}.issuperset)
