"""The chart with `federated.enabled` on the real control plane: a pod's token by its service account, without ARM."""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.token_proxy import SERVER_NAME
from tests.conftest import NewPlane
from tests.support.identity_requests import AUDIENCE, NODE, Response, ask
from tests.system.plane.e2e.e2e_cluster import VALUES, Cluster, cluster

pytestmark = [pytest.mark.root, pytest.mark.plane]

NAMESPACE: Final = "team-a"
OTHER: Final = "team-b"
REFUSALS: Final = {
    "direct": ("service account", "federated.namespaces"),
    "identityBindings": (
        "use-managed-identity",
        "apply the ClusterRole and ClusterRoleBinding that podidctl explain pod prints",
    ),
}
"""A part of NMI's response to a pod of OTHER, and of NMI's log, by the exchange."""


@pytest.mark.parametrize("exchange", REFUSALS)
async def test_a_pods_own_service_account_brings_its_token_under_the_charts_roles_and_policy(
    new_plane: NewPlane, tmp_path: Path, exchange: str
) -> None:
    plane = await asyncio.to_thread(new_plane, scheduler=True)
    async with cluster(plane, tmp_path, "helm") as here:
        azure = here.sandbox.azure
        for namespace in (NAMESPACE, OTHER):
            await here.kubectl("create", "namespace", namespace)
            await here.kubectl("create", "serviceaccount", "builder", "--namespace", namespace)
            if exchange == "direct":
                await here.sandbox.trust("builder", namespace=namespace)
        endpoint = {"nmi": {"allowedADEndpoints": [azure.aad.url]}}
        await here.install("install", VALUES | endpoint | {"federated": federated(here, exchange)})

        await bound(here, NAMESPACE)
        token_response = await request_token(here, NAMESPACE)
        assert token_response.status == 200, f"{token_response.text}\n{here.read_logs()}"
        assert (token_response.claims["appid"], token_response.claims["aud"]) == (DEMO_CLIENT_ID, AUDIENCE)
        assert (await request_token(here, NAMESPACE)).claims == token_response.claims

        await bound(here, OTHER)
        refused = await request_token(here, OTHER)
        response, logged = REFUSALS[exchange]
        assert (refused.status, response in refused.text) == (403, True), refused.text
        assert logged in here.read_logs()

        assert azure.arm.calls == []
        assert azure.imds.token_calls == []
        if exchange == "identityBindings":
            assert [call.status for call in azure.token_proxy.calls] == [200, 403]
            assert [call for call in azure.aad.calls if call.client_id == DEMO_CLIENT_ID] == []


def federated(here: Cluster, exchange: str) -> dict[str, Any]:
    """Return the chart's values for this *exchange*, which permit the service account of NAMESPACE only."""
    if exchange == "direct":
        return {"enabled": True, "namespaces": [{"name": NAMESPACE, "serviceAccounts": ["builder"]}]}
    proxy = here.sandbox.azure.token_proxy
    proxy.bind(DEMO_CLIENT_ID)
    permitted = {"clientID": DEMO_CLIENT_ID, "subjects": [{"namespace": NAMESPACE, "serviceAccount": "builder"}]}
    return {
        "enabled": True,
        "exchange": exchange,
        "namespaces": [{"name": NAMESPACE}, {"name": OTHER}],
        "identityBindings": {
            "tokenProxy": proxy.proxy_url,
            "serverName": SERVER_NAME,
            "caData": here.sandbox.files.certificates.read_text(),
            "permissions": [permitted],
        },
    }


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
    binding = {"azureIdentity": "builder", "selector": "builder"}
    pod = {"serviceAccountName": "builder", "containers": [{"name": "c", "image": "pause"}]}
    for version, kind, spec in (
        (group, "AzureIdentity", identity),
        (group, "AzureIdentityBinding", binding),
        ("v1", "Pod", pod),
    ):
        metadata = {"name": "builder", "namespace": namespace, "labels": {"aadpodidbinding": "builder"}}
        await here.sandbox.cluster.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    await here.kubectl("wait", "pod/builder", "--namespace", namespace, "--for=condition=Ready", "--timeout=80s")


async def request_token(here: Cluster, namespace: str) -> Response:
    context = here.sandbox.cluster.kubelets[NODE].context(namespace, "builder")
    assert context is not None
    return await ask(here.sandbox, context)
