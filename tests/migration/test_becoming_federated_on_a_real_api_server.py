"""Type 0 to 3 and back on the real kube-apiserver: its tokens, JSON patches and pods, with the real MIC."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from podidentity.resources import IDENTITIES, PODS
from podidentity_sandbox.directory import FederatedCredential
from tests.conftest import NewPlane
from tests.mic.cluster import vm_id
from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.mic.preview.run_programs import Answer, run
from tests.mic.real_server import LOCATION, add_node, bind, in_place_of_the_emulator
from tests.support.waiting import until
from tests.testplane.accounts import until_permitted
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


class Watching:
    """Looks again and again at what NMI serves for the pod, and measures how long there was nothing."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.longest = 0.0
        self.types: list[int] = []

    async def run(self) -> None:
        last = time.monotonic()
        while True:
            found = await asyncio.to_thread(self.plane.api, "GET", LOCATION)
            usable = [
                each["spec"]["azureIdentityRef"]["spec"]["type"]
                for each in found["items"]
                if each["status"]["status"] == "Assigned" and "deletionTimestamp" not in each["metadata"]
            ]
            now = time.monotonic()
            if not usable:  # a read that took long proves nothing
                self.longest = max(self.longest, now - last)
                continue
            last = now
            if self.types[-1:] != usable[:1]:
                self.types.append(usable[0])
            await asyncio.sleep(0.01)

    async def until(self, type_: int) -> None:
        await until(lambda: self.types[-1:] == [type_])


async def test_a_pod_keeps_its_identity_through_the_whole_migration(cloud: EmulatedCloud, real: Plane) -> None:
    await cloud.mic()
    watching = Watching(real)
    looking = asyncio.create_task(watching.run())
    await watching.until(0)
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
    watching.longest = 0.0
    await until(
        lambda: migrate(cloud, "apply", "--yes", "--tenant", cloud.directory.tenant_id),
        "the migration",
        holds=lambda answer: answer.code == 0,
    )
    await watching.until(3)
    assert (watching.types, watching.longest) == ([0, 3], 0.0)
    switched = await asyncio.to_thread(real.api, "GET", DEMO)
    assert json.loads(switched["metadata"]["annotations"][NOTE])["spec"] == before["spec"]
    assert (await migrate(cloud, "plan")).code == 0
    await cloud.until(lambda: cloud.on(vm_id("n0")) == set(), "nothing is left on the VM")

    back = await migrate(cloud, "rollback", "--yes", "-o", "json")
    assert back.code == 0, back.out + back.err
    await watching.until(0)
    looking.cancel()
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


async def test_a_service_account_without_a_role_for_nmi_is_an_obstacle(cloud: EmulatedCloud, real: Plane) -> None:
    def prepare() -> None:
        accounts = "/api/v1/namespaces/kube-system/serviceaccounts"
        real.api("POST", accounts, {"metadata": {"name": "nmi"}})
        container = {"name": "nmi", "image": "i", "args": ["--federated-identities"]}
        body = {"nodeName": "n0", "serviceAccountName": "nmi", "containers": [container]}
        meta = {"name": "nmi-1", "labels": {"app.kubernetes.io/component": "nmi"}}
        real.api("POST", PODS.path("kube-system"), {"metadata": meta, "spec": body})

    def allow() -> None:
        rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
        rule = {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "verbs": ["create"],
            "resourceNames": ["web"],
        }
        real.api("POST", f"{rbac}/roles", {"metadata": {"name": "nmi"}, "rules": [rule]})
        subject = {"kind": "ServiceAccount", "namespace": "kube-system", "name": "nmi"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "nmi"}
        real.api("POST", f"{rbac}/rolebindings", {"metadata": {"name": "nmi"}, "roleRef": role, "subjects": [subject]})
        until_permitted(real, "system:serviceaccount:kube-system:nmi", rule, "default")

    async def blocking() -> list[str]:
        answer = await migrate(cloud, "plan", "--tenant", cloud.directory.tenant_id, "-o", "json")
        (step,) = answer.document["steps"]
        everything = [*answer.document["remarks"], *step["remarks"]]
        return [each["why"] for each in everything if each["blocks"]]

    await asyncio.to_thread(prepare)
    assert await blocking() == ["NMI may not request tokens of service account default/web"]
    await asyncio.to_thread(allow)
    assert await blocking() == []
