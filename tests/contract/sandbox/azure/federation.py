"""The sandbox's AAD with an API server whose tokens it can check: tokens of that API server, or signed here."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.proofs import ASSERTION_TYPE
from tests.contract.sandbox.azure.conftest import Azure, encoded

AUDIENCE = "api://AzureADTokenExchange"
SUBJECT = "system:serviceaccount:default:default"
SCOPE = "https://vault.azure.net/.default"
ADVICE = (
    "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. "
    "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
)


class Federation:
    """An API server whose tokens AAD can check, and the identity that trusts its default service account."""

    def __init__(self, azure: Azure, kube: KubeApi) -> None:
        self.azure = azure
        self.kube = kube
        self.identity = azure.one
        self.credential = FederatedCredential(kube.url, SUBJECT, AUDIENCE)
        azure.aad.issuers.fetch = self.fetch
        self.fetched: list[str] = []
        trust = aiohttp.TCPConnector(ssl=kube.authority.client_context())
        self.session = aiohttp.ClientSession(connector=trust, headers={"Authorization": f"Bearer {kube.token}"})

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        async with self.session.get(url, raise_for_status=True) as response:
            return await response.read()

    def trust(self, client_id: str = "", **changes: Any) -> None:
        self.azure.directory.federate(client_id or self.identity.client_id, replace(self.credential, **changes))

    async def token(self, *audiences: str) -> str:
        body = {"spec": {"audiences": audiences or [AUDIENCE], "expirationSeconds": 600}}
        url = f"{self.kube.url}/api/v1/namespaces/default/serviceaccounts/default/token"
        async with self.session.post(url, json=body) as response:
            return str((await response.json())["status"]["token"])

    async def ask(self, assertion: str, client_id: str = "", tenant: str = "", **form: str) -> tuple[int, Any]:
        fields = {
            "client_id": client_id or self.identity.client_id,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
            **form,
        }
        return await self.azure.ask_aad(tenant=tenant, **fields)

    async def refusal(self, assertion: str, **others: str) -> tuple[int, str, int, str]:
        """Status, error, AADSTS number and the sentence."""
        status, body = await self.ask(assertion, **others)
        (number,) = body["error_codes"]
        sentence = body["error_description"].removeprefix(f"AADSTS{number}: ").partition(" Trace ID: ")[0]
        return status, body["error"], number, sentence


def signed_by(key: rsa.RSAPrivateKey, claims: dict[str, Any], **header: Any) -> str:
    body = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", **header}, claims))
    return f"{body}.{encoded(key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@pytest.fixture
async def federation(azure: Azure) -> AsyncIterator[Federation]:
    kube = await asyncio.to_thread(KubeApi)
    await kube.start()
    running = Federation(azure, kube)
    yield running
    await running.session.close()
    await kube.stop()
