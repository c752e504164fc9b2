"""Nodes that are instances of one scale set: identities are the set's, and every instance's IMDS knows them."""

import os

import pytest

from podidentity_sandbox.cluster import DEMO, read_documents
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.sandbox.cloud.conftest import eventually


@pytest.mark.programs
async def test_mic_assigns_to_the_set_and_the_pod_on_an_instance_gets_its_tokens() -> None:
    settings = Settings(nodes=2, scale_set=True, namespaces=False, environment=os.environ)
    async with Sandbox(settings) as sandbox:
        machine = sandbox.azure.arm.vm(sandbox.vm_id("node-1"))
        assert machine.kind == "virtualMachineScaleSets"
        assert machine is sandbox.azure.arm.vm(sandbox.vm_id("node-0"))
        for document in read_documents(DEMO):
            await sandbox.cluster.apply(document)

        async def all_four() -> bool:
            return (await sandbox.cluster.pod_log("default", "demo")).count("successfully") >= 4

        await eventually(all_four, sandbox)
        assert machine.identities == {sandbox.azure.demo.resource_id.lower()}
        assert [call.status for call in sandbox.azure.arm.writes(machine.resource_id)] == [200]
