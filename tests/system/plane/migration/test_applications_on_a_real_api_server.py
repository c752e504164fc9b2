"""A Deployment's migration to workload identity and back on the real kube-apiserver, whose controllers roll it out.

Excluded: the switch of its identity (tests/system/local/migration/test_switching_in_the_sandbox.py)."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import BINDINGS, IDENTITIES
from tests.conftest import NewPlane, apply_definitions
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.mic.real_server import add_node, create
from tests.support.objects import vm_id
from tests.support.testplane.accounts import place_pod
from tests.support.testplane.up import Plane

TENANT = "11111111-1111-1111-1111-111111111111"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
BOUND = {"aadpodidbinding": "demo"}
WEBHOOK = {
    "name": "mutation.azure-workload-identity.io",
    "clientConfig": {"url": "https://127.0.0.1:1/"},
    "rules": [],
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
}
"""The command selects it by its name, and asks no question."""


def prepare(plane: Plane) -> None:
    """Create an identity of type 3, and a pod and a Deployment that it is bound to."""
    apply_definitions(plane)
    add_node(plane, "n0", vm_id("n0"))
    create(plane, IDENTITIES, "demo", {"type": 3, "clientID": "client-demo", "tenantID": TENANT})
    create(plane, BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
    plane.api("POST", ACCOUNTS, {"metadata": {"name": "web"}})
    place_pod(plane, "web-1", "n0", BOUND, serviceAccountName="web")
    pod = {"serviceAccountName": "web", "containers": [{"name": "c", "image": "i"}]}
    template = {"metadata": {"labels": {"app": "web", **BOUND}}, "spec": pod}
    body = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    plane.api("POST", DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": body})


def written(plane: Plane) -> dict[str, Any]:
    """Return what the migration writes: annotations of both objects, and the labels of the pods."""
    objects = [plane.api("GET", f"{ACCOUNTS}/web"), plane.api("GET", f"{DEPLOYMENTS}/web")]
    account, deployment = (item["metadata"].get("annotations", {}) for item in objects)
    deployment.pop("deployment.kubernetes.io/revision", None)
    labels = objects[1]["spec"]["template"]["metadata"]["labels"]
    return {"account": account, "deployment": deployment, "labels": labels}


@pytest.mark.plane
async def test_an_application_migrates_to_workload_identity_and_back(tmp_path: Path, new_plane: NewPlane) -> None:
    async def migrate(*words: str) -> CommandResult:
        command = ("podidctl", "migrate", *words, "--workload-identity", "--timeout=120", "-o", "json")
        return await run(tmp_path, *command, cloudconfig=False, HOME=str(tmp_path), AZURE_ENVIRONMENT_FILEPATH="")

    real = await asyncio.to_thread(new_plane)
    await asyncio.to_thread(prepare, real)
    await asyncio.to_thread(shutil.copyfile, real.kubeconfig, tmp_path / "kubeconfig")
    before = await asyncio.to_thread(written, real)
    refused = await migrate("apply", "--yes")
    assert refused.code == 3
    assert "webhook is not installed" in refused.document["outcomes"][0]["why"]
    hooks = {"metadata": {"name": "azure-wi"}, "webhooks": [WEBHOOK]}
    await asyncio.to_thread(real.api, "POST", WEBHOOKS, hooks)
    dry = await migrate("apply")
    assert [(outcome["about"], outcome["ending"]) for outcome in dry.document["outcomes"]] == [
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
    assert [(outcome["about"], outcome["ending"]) for outcome in back.document["outcomes"]] == [
        ("Deployment default/web", "changed"),
        ("ServiceAccount default/web", "changed"),
    ]
    assert await asyncio.to_thread(written, real) == before
