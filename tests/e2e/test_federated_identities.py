"""The chart with `federated.enabled` on the real control plane: a pod's token by its service account, without ARM."""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.token_proxy import SERVER_NAME
from tests.conftest import NewPlane
from tests.e2e.e2e_cluster import VALUES, Cluster, cluster
from tests.integration.identity_requests import AUDIENCE, NODE, Answer, ask

pytestmark = [pytest.mark.root, pytest.mark.plane]

NAMESPACE: Final = "team-a"
OTHER: Final = "team-b"
FEDERATED: Final = {"enabled": True, "namespaces": [{"name": NAMESPACE, "serviceAccounts": ["builder"]}]}


async def test_a_pods_own_service_account_brings_its_token_under_the_charts_roles_and_policy(
    new_plane: NewPlane, tmp_path: Path
) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    async with cluster(plane, tmp_path, "helm") as here:
        for namespace in (NAMESPACE, OTHER):
            await here.kubectl("create", "namespace", namespace)
            await here.kubectl("create", "serviceaccount", "builder", "--namespace", namespace)
            await here.sandbox.trust("builder", namespace=namespace)
        endpoint = {"nmi": {"allowedADEndpoints": [here.sandbox.azure.aad.url]}}
        await here.install("install", VALUES | endpoint | {"federated": FEDERATED})

        await bound(here, NAMESPACE)
        answer = await asked(here, NAMESPACE)
        assert answer.status == 200, f"{answer.text}\n{here.read_logs()}"
        assert (answer.claims["appid"], answer.claims["aud"]) == (DEMO_CLIENT_ID, AUDIENCE)
        assert (await asked(here, NAMESPACE)).claims == answer.claims

        await bound(here, OTHER)
        refused = await asked(here, OTHER)
        assert (refused.status, "service account" in refused.text) == (403, True), refused.text
        assert "federated.namespaces" in here.read_logs()

        assert here.sandbox.azure.arm.calls == []
        assert here.sandbox.azure.imds.token_calls == []


async def bound(here: Cluster, namespace: str) -> None:
    """A pod of the service account `builder` that runs, with an identity of type 3."""
    group = "aadpodidentity.k8s.io/v1"
    azure = here.sandbox.azure
    identity = {
        "type": 3,
        "clientID": DEMO_CLIENT_ID,
        "tenantID": azure.directory.tenant_id,
        "adEndpoint": azure.aad.url,
    }
    container = {"name": "c", "image": "pause"}
    objects: list[dict[str, Any]] = [
        {"apiVersion": group, "kind": "AzureIdentity", "metadata": {"name": "builder"}, "spec": identity},
        {
            "apiVersion": group,
            "kind": "AzureIdentityBinding",
            "metadata": {"name": "builder"},
            "spec": {"azureIdentity": "builder", "selector": "builder"},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "builder", "labels": {"aadpodidbinding": "builder"}},
            "spec": {"serviceAccountName": "builder", "containers": [container]},
        },
    ]
    for each in objects:
        each["metadata"]["namespace"] = namespace
        await here.sandbox.cluster.apply(each)
    await here.kubectl("wait", "pod/builder", "--namespace", namespace, "--for=condition=Ready", "--timeout=30s")


async def asked(here: Cluster, namespace: str) -> Answer:
    context = here.sandbox.cluster.kubelets[NODE].context(namespace, "builder")
    assert context is not None
    return await ask(here.sandbox, context)


async def test_identity_bindings_under_the_charts_roles_and_policy(new_plane: NewPlane, tmp_path: Path) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    async with cluster(plane, tmp_path, "helm") as here:
        proxy = here.sandbox.azure.token_proxy
        proxy.bind(DEMO_CLIENT_ID)
        for namespace in (NAMESPACE, OTHER):
            await here.kubectl("create", "namespace", namespace)
            await here.kubectl("create", "serviceaccount", "builder", "--namespace", namespace)
        permitted = {"clientID": DEMO_CLIENT_ID, "subjects": [{"namespace": NAMESPACE, "serviceAccount": "builder"}]}
        explicit = {
            "tokenProxy": proxy.proxy_url,
            "serverName": SERVER_NAME,
            "caData": here.sandbox.files.certificates.read_text(),
            "permissions": [permitted],
        }
        federated = {
            "enabled": True,
            "exchange": "identityBindings",
            "namespaces": [{"name": NAMESPACE}, {"name": OTHER}],
            "identityBindings": explicit,
        }
        endpoint = {"nmi": {"allowedADEndpoints": [here.sandbox.azure.aad.url]}}
        await here.install("install", VALUES | endpoint | {"federated": federated})

        await bound(here, NAMESPACE)
        answer = await asked(here, NAMESPACE)
        assert answer.status == 200, f"{answer.text}\n{here.read_logs()}"
        assert (answer.claims["appid"], answer.claims["aud"]) == (DEMO_CLIENT_ID, AUDIENCE)

        await bound(here, OTHER)
        refused = await asked(here, OTHER)
        assert (refused.status, "use-managed-identity" in refused.text) == (403, True), refused.text
        assert "apply the ClusterRole and ClusterRoleBinding that podidctl explain pod prints" in here.read_logs()

        assert [call.status for call in proxy.calls] == [200, 403]
        assert [call for call in here.sandbox.azure.aad.calls if call.client_id == DEMO_CLIENT_ID] == []
