"""A cluster as the Go implementation's chart 4.1.18 leaves it, `helm upgrade` to this chart, and the way back.

The old chart has no programs here. tests/system/node/scenarios has the upgrade on a node, with stand-ins for them.
"""

import asyncio
import json
import operator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podidentity_sandbox.azure import COMPUTE, identity_id
from tests.conftest import NewPlane
from tests.support.checkout import ROOT
from tests.support.go_implementation_chart import write_chart
from tests.support.go_implementation_lock import record_of
from tests.support.go_implementation_objects import FORMER_LEADER, LOCK, RECORD, assignment, lock, record
from tests.support.identity_requests import NODE
from tests.support.v1beta1_definitions import leave_v1beta1_definitions, served_definitions
from tests.support.waiting import until
from tests.system.plane.e2e.e2e_cluster import NAMESPACE, RELEASE, VALUES, Cluster, cluster, gets_a_token

pytestmark = [pytest.mark.root, pytest.mark.plane, pytest.mark.nightly]


async def test_the_upgrade_adopts_all_assignments_and_pods_get_tokens_immediately(
    new_plane: NewPlane, tmp_path: Path
) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    await asyncio.to_thread(leave_v1beta1_definitions, plane)
    async with cluster(plane, tmp_path, "helm3") as here:
        machine = here.sandbox.azure.arm.vm(f"{COMPUTE}/virtualMachines/{NODE}")
        of_the_kubelet = here.sandbox.azure.directory.add_identity(identity_id("agentpool"))
        for identity in (of_the_kubelet, here.sandbox.azure.demo):
            machine.attach(identity)
        before_upgrade = (machine.system_assigned, set(machine.identities))
        await here.helm(
            "install",
            RELEASE,
            str(write_chart(tmp_path, release=RELEASE)),
            f"--namespace={NAMESPACE}",
            "--create-namespace",
        )
        await here.kubectl("apply", "--filename", str(ROOT / "deploy" / "demo"))
        await here.kubectl("wait", "pod/demo", "--for=condition=Ready", "--timeout=30s")
        await leave_objects(here)
        before = await read(here, "azureassignedidentity", "demo-default-demo", "default")
        recorded = await read(here, "configmap", RECORD)

        async def check_kept() -> None:
            found = await read(here, "azureassignedidentity", "demo-default-demo", "default")
            assert found["metadata"]["uid"] == before["metadata"]["uid"]
            assert (found["spec"], found["status"]) == (before["spec"], before["status"])
            assert here.sandbox.azure.arm.writes() == [], "no identity is attached or detached"
            assert (machine.system_assigned, set(machine.identities)) == before_upgrade

        await here.install("upgrade", VALUES)
        await gets_a_token(here)
        await until(lambda: holder(here), "a leader", holds=lambda name: name not in {"", FORMER_LEADER})
        definitions = await asyncio.to_thread(served_definitions, plane)
        assert not any(each["spec"].get("preserveUnknownFields") for each in definitions)
        assert (await read(here, "configmap", RECORD)) == recorded
        await check_kept()

        await here.helm("rollback", RELEASE, "1", f"--namespace={NAMESPACE}")
        await until(lambda: images(here), "the programs end", holds={"theirs"}.issuperset)
        assert await holder(here) == "", "the Go implementation's MIC need not wait"
        await check_kept()

        await here.install("upgrade", VALUES)
        await gets_a_token(here)
        await here.kubectl("delete", "pod", "demo", "--timeout=30s")
        await until(lambda: here.names("azureassignedidentities"), "no assignment", holds=operator.not_)
        left = {each.lower() for each in machine.identities}
        assert left == {of_the_kubelet.resource_id.lower()}, "MIC detaches what the Go implementation attached"
        assert machine.system_assigned == before_upgrade[0]


async def leave_objects(here: Cluster) -> None:
    """Write the objects of the Go implementation's MIC, which has assigned the demo's identity."""
    identity = await read(here, "azureidentity", "demo", "default")
    binding = await read(here, "azureidentitybinding", "demo-binding", "default")
    file = here.folder / "objects.yaml"
    documents = [record(NAMESPACE), lock(NAMESPACE), assignment("demo", NODE, identity, binding)]
    await asyncio.to_thread(file.write_text, yaml.safe_dump_all(documents))
    await here.kubectl("create", "--filename", str(file))


async def read(here: Cluster, kind: str, name: str, namespace: str = NAMESPACE) -> Any:
    return json.loads(await here.kubectl("get", kind, name, "--namespace", namespace, "--output=json"))


async def holder(here: Cluster) -> str:
    """Return the MIC that holds the lock."""
    return str(record_of(await read(here, "endpoints", LOCK))["holderIdentity"])


async def images(here: Cluster) -> set[str]:
    """Return the images of all pods of the release."""
    output = "--output=jsonpath={.items[*].spec.containers[*].image}"
    return set((await here.kubectl("get", "pods", "--namespace", NAMESPACE, output)).split())
