"""Type 0 to 3 and back on the real kube-apiserver: its tokens, JSON patches and pods, with the real MIC."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from podidentity.resources import IDENTITIES, PODS
from podidentity_sandbox.directory import FederatedCredential
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.mic.preview.run_programs import Answer, run
from tests.mic.real_server import LOCATION, add_node, assigned, bind, in_place_of_the_emulator
from tests.support.objects import vm_id
from tests.support.waiting import until
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

AUDIENCE = "api://AzureADTokenExchange"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
DEMO = IDENTITIES.path("default", "demo")
NOTE = "aadpodidentity.k8s.io/migrated-from"


@pytest.fixture
async def cloud(tmp_path: Any) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def real(cloud: EmulatedCloud, new_plane: NewPlane) -> AsyncIterator[Plane]:
    """The real server with a pod of service account web, whose tokens the AAD emulator can check."""

    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")
        plane.api("POST", ACCOUNTS, {"metadata": {"name": "web"}})
        plane.api("POST", PODS.path("default"), {"metadata": {"name": "web-1", "labels": {**BOUND}}, "spec": spec()})

    plane = await in_place_of_the_emulator(cloud, new_plane, prepare)
    trust = aiohttp.TCPConnector(ssl=plane.api.context)
    async with aiohttp.ClientSession(connector=trust, headers={"Authorization": f"Bearer {plane.token}"}) as session:

        async def fetch(url: str) -> bytes:
            async with session.get(f"{plane.server}{urlsplit(url).path}", raise_for_status=True) as response:
                return await response.read()

        cloud.aad.issuers.fetch = fetch
        yield plane


BOUND = {"aadpodidbinding": "demo"}


def spec() -> dict[str, Any]:
    return {
        "nodeName": "n0",
        "serviceAccountName": "web",
        "containers": [{"name": "c", "image": "i"}],
        "terminationGracePeriodSeconds": 0,
    }


async def migrate(cloud: EmulatedCloud, *arguments: str) -> Answer:
    return await run(cloud.folder, "podidctl", "migrate", *arguments, cloudconfig=False, HOME=str(cloud.folder))


async def trusted(cloud: EmulatedCloud, plane: Plane, account: str = "web") -> None:
    document = await asyncio.to_thread(plane.api, "GET", "/.well-known/openid-configuration")
    subject = f"system:serviceaccount:default:{account}"
    cloud.directory.federate("client-demo", FederatedCredential(document["issuer"], subject, AUDIENCE))


async def assigned_type(plane: Plane) -> int:
    """Return the type of the only assigned identity."""
    (found,) = (await asyncio.to_thread(plane.api, "GET", LOCATION))["items"]
    return int(found["spec"]["azureIdentityRef"]["spec"]["type"])


async def test_an_identity_becomes_federated_and_user_assigned_again(cloud: EmulatedCloud, real: Plane) -> None:
    await cloud.mic()
    await assigned(real, **{"web-1": "Assigned"})
    before = await asyncio.to_thread(real.api, "GET", DEMO)

    # podidctl waits ten seconds for a token, which a busy API server may exceed.
    left = await until(
        lambda: migrate(cloud, "apply", "--yes", "--tenant", cloud.directory.tenant_id, "-o", "json"),
        "a refusal of the token",
        holds=lambda answer: "subject system:serviceaccount:default:web" in answer.out,
    )
    assert left.code == 3
    assert "subject system:serviceaccount:default:web" in left.document["outcomes"][0]["tried"][0]["problem"]
    await trusted(cloud, real)
    await until(
        lambda: migrate(cloud, "apply", "--yes", "--tenant", cloud.directory.tenant_id),
        "the migration",
        holds=lambda answer: answer.code == 0,
    )
    assert await assigned_type(real) == 3
    switched = await asyncio.to_thread(real.api, "GET", DEMO)
    assert json.loads(switched["metadata"]["annotations"][NOTE])["spec"] == before["spec"]
    assert (await migrate(cloud, "plan")).code == 0
    await cloud.until(lambda: cloud.on(vm_id("n0")) == set(), "nothing is left on the VM")

    back = await migrate(cloud, "rollback", "--yes", "-o", "json")
    assert back.code == 0, back.out + back.err
    assert await assigned_type(real) == 0
    restored = await asyncio.to_thread(real.api, "GET", DEMO)
    assert restored["spec"] == before["spec"]
    assert NOTE not in restored["metadata"].get("annotations", {})
    assert cloud.on(vm_id("n0")) == {"demo"}


async def test_a_federated_application_migrates_to_workload_identity_and_back(
    cloud: EmulatedCloud, real: Plane
) -> None:
    def prepare() -> dict[str, Any]:
        change = {"spec": {"type": 3, "tenantID": cloud.directory.tenant_id}}
        real.api("PATCH", DEMO, change, content_type="application/merge-patch+json")
        template = {"metadata": {"labels": {"app": "web", **BOUND}}, "spec": spec() | {"nodeName": None}}
        body = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        real.api("POST", DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": body})
        return stripped()

    def stripped() -> dict[str, Any]:
        found = [real.api("GET", f"{ACCOUNTS}/web"), real.api("GET", f"{DEPLOYMENTS}/web")]
        account, deployment = (each["metadata"].get("annotations", {}) for each in found)
        deployment.pop("deployment.kubernetes.io/revision", None)
        return {
            "account": account,
            "deployment": deployment,
            "labels": found[1]["spec"]["template"]["metadata"]["labels"],
        }

    before = await asyncio.to_thread(prepare)
    arguments = ("--workload-identity", "--timeout=120", "-o", "json")
    refused = await migrate(cloud, "apply", "--yes", *arguments)
    assert refused.code == 3
    assert "webhook is not installed" in refused.document["outcomes"][0]["why"]
    await asyncio.to_thread(add_webhook, real)

    dry = await migrate(cloud, "apply", *arguments)
    assert [(each["about"], each["ending"]) for each in dry.document["outcomes"]] == [
        ("Deployment default/web", "would be changed"),
        ("Pod default/web-1", "left as it was"),
    ]
    assert await asyncio.to_thread(stripped) == before
    await migrate(cloud, "apply", "--yes", *arguments)
    made = await asyncio.to_thread(stripped)
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
    assert await asyncio.to_thread(stripped) == before


def add_webhook(plane: Plane) -> None:
    """Select it by its name; the command asks no question."""
    hook = {
        "name": "mutation.azure-workload-identity.io",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    plane.api("POST", path, {"metadata": {"name": "azure-wi"}, "webhooks": [hook]})
