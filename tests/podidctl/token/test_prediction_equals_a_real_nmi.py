"""The sandbox with the real MIC and NMI: the prediction of `podidctl token` equals NMI's response to the pod."""

import asyncio
import http.client
import json
import os
from typing import Any
from urllib.parse import urlsplit

import pytest

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, GROUP, PODS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.mic.preview.run_programs import Answer, run
from tests.sandbox.cloud.conftest import eventually, pod

pytestmark = pytest.mark.programs

PATH = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"


async def token(sandbox: Sandbox, name: str, *flags: str) -> Answer:
    runs = "--nmi-flags=--node=node-0"  # it is no pod of this cluster
    words = ("podidctl", "token", f"default/{name}", "-o", "json", runs, *flags)
    return await run(sandbox.folder, *words, cloudconfig=False)


async def answered(sandbox: Sandbox, name: str, more: str = "") -> tuple[int, Any]:
    """What NMI answers to the pod, asked from the pod's own address."""
    address = (await sandbox.cluster.client.get(PODS, "default", name)).addresses[0]
    where = urlsplit(sandbox.metadata_url("node-0"))

    def ask() -> tuple[int, Any]:
        connection = http.client.HTTPConnection(where.netloc, timeout=30, source_address=(address, 0))
        try:
            connection.request("GET", PATH + more, headers={"Metadata": "true"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def test_a_grant_and_refusals_are_as_predicted_and_no_token_is_printed() -> None:
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:
        identity = sandbox.azure.directory.add_identity(identity_id("demo"))
        on_vm = {"type": 0, "resourceID": identity.resource_id, "clientID": identity.client_id}
        federated = {"type": 3, "clientID": identity.client_id, "tenantID": "contoso.com"}
        for name, spec in (("demo", on_vm), ("federated", federated)):
            meta = {"name": name, "namespace": "default"}
            binding = {"azureIdentity": name, "selector": name}
            for kind, fields in (("AzureIdentity", spec), ("AzureIdentityBinding", binding)):
                document = {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": meta, "spec": fields}
                await sandbox.cluster.apply(document)
        bound, bare, trusting = pod("bound"), pod("bare"), pod("trusting")
        bound["metadata"]["labels"] = {"aadpodidbinding": "demo"}
        trusting["metadata"]["labels"] = {"aadpodidbinding": "federated"}
        for document in (bound, bare, trusting):
            await sandbox.cluster.apply(document)

        async def ready() -> bool:
            pods = await sandbox.cluster.client.list(PODS, "default")
            objects = await sandbox.cluster.client.list(ASSIGNED_IDENTITIES)
            running = [each for each in pods if each.addresses and each.status.phase == "Running"]
            return len(running) == 3 and [each.status.status for each in objects] == [ASSIGNED, ASSIGNED]

        await eventually(ready, sandbox)

        result = await token(sandbox, "bound")
        assert (result.code, result.err) == (0, "")
        status, body = await answered(sandbox, "bound")
        assert (status, body["client_id"]) == (200, identity.client_id)
        assert result.document["resourceId"] == identity.resource_id
        assert result.document["clientId"] == f"{identity.client_id[:4]}…{identity.client_id[-4:]}"
        assert body["access_token"] not in result.out

        for name, flags, more in (
            ("bare", (), ""),
            ("trusting", (), ""),
            ("bound", ("--client-id=a", "--resource-id=b"), "&client_id=a&msi_res_id=b"),
        ):
            result = await token(sandbox, name, *flags)
            status, body = await answered(sandbox, name, more)
            assert result.code == 3
            document = result.document
            assert (document["status"], document["error"], document["description"]) == (
                status,
                body["error"],
                body["error_description"],
            )
