"""Type 0 to 3 and back on the real kube-apiserver, with its tokens, JSON patches and pods and the real MIC; and a
Deployment's migration to workload identity and back, which its controllers roll out.
"""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from podidentity.resources import IDENTITIES, PODS
from podidentity_sandbox.directory import FederatedCredential
from tests.conftest import NewPlane
from tests.support.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.mic.preview.run_programs import Answer, run
from tests.support.mic.real_server import LOCATION, add_node, assigned, bind, in_place_of_the_emulator
from tests.support.objects import vm_id
from tests.support.testplane.up import Plane
from tests.support.waiting import until

pytestmark = pytest.mark.plane
DEMO = IDENTITIES.path("default", "demo")
NOTE = "aadpodidentity.k8s.io/migrated-from"
AUDIENCE = "api://AzureADTokenExchange"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
BOUND = {"aadpodidbinding": "demo"}
SPEC = {
    "serviceAccountName": "web",
    "containers": [{"name": "c", "image": "i"}],
    "terminationGracePeriodSeconds": 0,
}
WEBHOOK = {
    "name": "mutation.azure-workload-identity.io",
    "clientConfig": {"url": "https://127.0.0.1:1/"},
    "rules": [],
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
}
"""The command selects it by its name, and asks no question."""


def prepare(plane: Plane) -> None:
    """Create an identity, and a pod and a Deployment that it is bound to."""
    add_node(plane, "n0", vm_id("n0"))
    bind(plane, "demo")
    plane.api("POST", ACCOUNTS, {"metadata": {"name": "web"}})
    pod = {"metadata": {"name": "web-1", "labels": BOUND}, "spec": {**SPEC, "nodeName": "n0"}}
    plane.api("POST", PODS.path("default"), pod)
    template = {"metadata": {"labels": {"app": "web", **BOUND}}, "spec": SPEC}
    body = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    plane.api("POST", DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": body})


def written(plane: Plane) -> dict[str, Any]:
    """Return what the migration writes: annotations of both objects, and the labels of the pods."""
    found = [plane.api("GET", f"{ACCOUNTS}/web"), plane.api("GET", f"{DEPLOYMENTS}/web")]
    account, deployment = (each["metadata"].get("annotations", {}) for each in found)
    deployment.pop("deployment.kubernetes.io/revision", None)
    labels = found[1]["spec"]["template"]["metadata"]["labels"]
    return {"account": account, "deployment": deployment, "labels": labels}


async def migrate(cloud: EmulatedCloud, *arguments: str) -> Answer:
    return await run(cloud.folder, "podidctl", "migrate", *arguments, cloudconfig=False, HOME=str(cloud.folder))


async def assigned_type(plane: Plane) -> int:
    """Return the type of the only assigned identity."""
    (found,) = (await asyncio.to_thread(plane.api, "GET", LOCATION))["items"]
    return int(found["spec"]["azureIdentityRef"]["spec"]["type"])


async def test_an_identity_and_its_application_are_migrated_and_taken_back(tmp_path: Path, new_plane: NewPlane) -> None:
    async with emulated_cloud(tmp_path) as cloud:
        real = await in_place_of_the_emulator(cloud, new_plane, prepare)
        trust = aiohttp.TCPConnector(ssl=real.api.context)
        async with aiohttp.ClientSession(connector=trust, headers={"Authorization": f"Bearer {real.token}"}) as session:

            async def fetch(url: str) -> bytes:
                async with session.get(f"{real.server}{urlsplit(url).path}", raise_for_status=True) as response:
                    return await response.read()

            cloud.aad.issuers.fetch = fetch
            await cloud.mic()
            await assigned(real, **{"web-1": "Assigned"})
            before = await asyncio.to_thread(real.api, "GET", DEMO)
            await becomes_federated(cloud, real)
            switched = await asyncio.to_thread(real.api, "GET", DEMO)
            assert json.loads(switched["metadata"]["annotations"][NOTE])["spec"] == before["spec"]
            await an_application_migrates_to_workload_identity_and_back(cloud, real)

            back = await migrate(cloud, "rollback", "--yes", "-o", "json")
            assert back.code == 0, back.out + back.err
            assert await assigned_type(real) == 0
            restored = await asyncio.to_thread(real.api, "GET", DEMO)
            assert restored["spec"] == before["spec"]
            assert NOTE not in restored["metadata"].get("annotations", {})
            assert cloud.on(vm_id("n0")) == {"demo"}


async def becomes_federated(cloud: EmulatedCloud, real: Plane) -> None:
    """The identity is switched as soon as Azure trusts its service account."""
    tenant = ("--tenant", cloud.directory.tenant_id)
    # podidctl waits ten seconds for a token, which a busy API server may exceed.
    left = await until(
        lambda: migrate(cloud, "apply", "--yes", *tenant, "-o", "json"),
        "a refusal of the token",
        holds=lambda answer: "subject system:serviceaccount:default:web" in answer.out,
    )
    assert left.code == 3
    assert "subject system:serviceaccount:default:web" in left.document["outcomes"][0]["tried"][0]["problem"]
    issuer = (await asyncio.to_thread(real.api, "GET", "/.well-known/openid-configuration"))["issuer"]
    subject = "system:serviceaccount:default:web"
    cloud.directory.federate("client-demo", FederatedCredential(issuer, subject, AUDIENCE))
    await until(
        lambda: migrate(cloud, "apply", "--yes", *tenant), "the migration", holds=lambda answer: answer.code == 0
    )
    assert await assigned_type(real) == 3
    assert (await migrate(cloud, "plan")).code == 0
    await cloud.until(lambda: cloud.on(vm_id("n0")) == set(), "nothing is left on the VM")


async def an_application_migrates_to_workload_identity_and_back(cloud: EmulatedCloud, real: Plane) -> None:
    arguments = ("--workload-identity", "--timeout=120", "-o", "json")
    before = await asyncio.to_thread(written, real)
    refused = await migrate(cloud, "apply", "--yes", *arguments)
    assert refused.code == 3
    assert "webhook is not installed" in refused.document["outcomes"][0]["why"]
    hooks = {"metadata": {"name": "azure-wi"}, "webhooks": [WEBHOOK]}
    await asyncio.to_thread(real.api, "POST", WEBHOOKS, hooks)
    dry = await migrate(cloud, "apply", *arguments)
    assert [(each["about"], each["ending"]) for each in dry.document["outcomes"]] == [
        ("Deployment default/web", "would be changed"),
        ("Pod default/web-1", "left as it was"),
    ]
    assert await asyncio.to_thread(written, real) == before
    await migrate(cloud, "apply", "--yes", *arguments)
    made = await asyncio.to_thread(written, real)
    assert made["account"]["azure.workload.identity/client-id"] == "client-demo"
    assert made["account"]["azure.workload.identity/tenant-id"] == cloud.directory.tenant_id
    assert made["labels"] == {**before["labels"], "azure.workload.identity/use": "true"}
    again = await migrate(cloud, "apply", "--yes", *arguments)
    assert again.document["outcomes"][0]["ending"] == "as it is"
    back = await migrate(cloud, "rollback", "--yes", *arguments)
    assert [(each["about"], each["ending"]) for each in back.document["outcomes"]] == [
        ("Deployment default/web", "changed"),
        ("ServiceAccount default/web", "changed"),
    ]
    assert await asyncio.to_thread(written, real) == before
