"""The sandbox's Azure trusts service accounts of the sandbox's cluster after `trust`."""

import ssl
from typing import Any

import aiohttp
import msgspec

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.proofs import ASSERTION_TYPE
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import EXCHANGE_AUDIENCE
from podidentity_sandbox.tokens import read_claims


async def assertion(stage: Sandbox, service_account: str = "default", audience: str = EXCHANGE_AUDIENCE) -> str:
    path = f"/api/v1/namespaces/default/serviceaccounts/{service_account}/token"
    asked = msgspec.json.encode({"spec": {"audiences": [audience]}})
    answer: dict[str, Any] = msgspec.json.decode(await stage.cluster.client.request("POST", path, body=asked))
    return str(answer["status"]["token"])


async def exchanged(stage: Sandbox, presented: str, client_id: str = DEMO_CLIENT_ID) -> dict[str, Any]:
    fields = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": presented,
        "scope": "https://vault.azure.net/.default",
    }
    url = f"{stage.azure.aad.url}/{stage.azure.directory.tenant_id}/oauth2/v2.0/token"
    trust = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(stage.files.certificates)))
    async with aiohttp.ClientSession(connector=trust) as session, session.post(url, data=fields) as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def test_only_a_trusted_service_accounts_token_is_exchanged(stage: Sandbox) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other"}}
    await stage.cluster.apply(account)
    credential = await stage.trust("default")
    assert stage.cluster.api is not None
    assert credential.issuer == stage.cluster.api.server
    answer = await exchanged(stage, await assertion(stage))
    assert read_claims(answer["access_token"])["appid"] == DEMO_CLIENT_ID
    assert (await exchanged(stage, await assertion(stage, "other")))["error_codes"] == [700213]
    await stage.trust("other")
    assert "access_token" in await exchanged(stage, await assertion(stage, "other"))


async def test_a_trust_has_the_delay_the_client_and_the_audience_of_its_parameters(stage: Sandbox) -> None:
    presented = await assertion(stage)
    await stage.trust("default", delay_seconds=3600)
    assert (await exchanged(stage, presented))["error_codes"] == [70025]
    controller, china = stage.azure.controller.client_id, "api://AzureADTokenExchangeChina"
    await stage.trust("default", client_id=controller, audience=china)
    assert (await exchanged(stage, presented, controller))["error_codes"] == [700212]
    assert "access_token" in await exchanged(stage, await assertion(stage, audience=china), controller)
