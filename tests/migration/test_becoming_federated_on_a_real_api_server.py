"""A Deployment migrates to workload identity and back on the real kube-apiserver, whose controllers roll it out.

test_switching_in_the_sandbox.py has the switch of identities.
"""

import asyncio
from typing import Any

import pytest

from podidentity.resources import IDENTITIES, PODS
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import emulated_cloud
from tests.mic.preview.run_programs import Answer, run
from tests.mic.real_server import add_node, bind, in_place_of_the_emulator
from tests.support.objects import vm_id
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane
TENANT = "72f988bf-0000-0000-0000-2d7cd011db47"
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
    """Create a federated identity, a pod and a Deployment that it is bound to."""
    add_node(plane, "n0", vm_id("n0"))
    bind(plane, "demo")
    change = {"spec": {"type": 3, "tenantID": TENANT}}
    plane.api("PATCH", IDENTITIES.path("default", "demo"), change, content_type="application/merge-patch+json")
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


async def test_a_federated_application_migrates_to_workload_identity_and_back(
    tmp_path: Any, new_plane: NewPlane
) -> None:
    async with emulated_cloud(tmp_path) as cloud:
        real = await in_place_of_the_emulator(cloud, new_plane, prepare)

        async def migrate(*words: str) -> Answer:
            arguments = ("migrate", *words, "--workload-identity", "--timeout=120", "-o", "json")
            return await run(cloud.folder, "podidctl", *arguments, cloudconfig=False, HOME=str(cloud.folder))

        before = await asyncio.to_thread(written, real)
        refused = await migrate("apply", "--yes")
        assert refused.code == 3
        assert "webhook is not installed" in refused.document["outcomes"][0]["why"]
        hooks = {"metadata": {"name": "azure-wi"}, "webhooks": [WEBHOOK]}
        await asyncio.to_thread(real.api, "POST", WEBHOOKS, hooks)
        dry = await migrate("apply")
        assert [(each["about"], each["ending"]) for each in dry.document["outcomes"]] == [
            ("Deployment default/web", "would be changed"),
            ("Pod default/web-1", "left as it was"),
        ]
        assert await asyncio.to_thread(written, real) == before
        await migrate("apply", "--yes")
        made = await asyncio.to_thread(written, real)
        assert made["account"]["azure.workload.identity/client-id"] == "client-demo"
        assert made["account"]["azure.workload.identity/tenant-id"] == TENANT
        assert made["labels"] == {**before["labels"], "azure.workload.identity/use": "true"}
        again = await migrate("apply", "--yes")
        assert again.document["outcomes"][0]["ending"] == "as it is"
        back = await migrate("rollback", "--yes")
        assert [(each["about"], each["ending"]) for each in back.document["outcomes"]] == [
            ("Deployment default/web", "changed"),
            ("ServiceAccount default/web", "changed"),
        ]
        assert await asyncio.to_thread(written, real) == before
