"""azure-identity and MSAL exchange an assertion for a token."""

import asyncio
from pathlib import Path
from typing import Any

import msal  # type: ignore[import-untyped] # it has no types
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientAssertionCredential

from podidentity_sandbox.tokens import read_claims
from tests.sandbox.azure.federated_credentials.federation import SCOPE, Federation


async def test_azure_identity_exchanges_an_assertion(federation: Federation) -> None:
    federation.trust()
    credential = ClientAssertionCredential(
        federation.azure.directory.tenant_id,
        federation.identity.client_id,
        lambda: token,
        authority=federation.azure.aad.url,
        transport=AioHttpTransport(session=federation.azure.session, session_owner=False),
        retry_total=0,
    )
    async with credential:
        token = "a.b.c"
        with pytest.raises(ClientAuthenticationError, match="AADSTS50027"):
            await credential.get_token(SCOPE)
        token = await federation.token()
        got = await credential.get_token(SCOPE)
    assert read_claims(got.token)["appid"] == federation.identity.client_id


async def test_msal_exchanges_an_assertion(federation: Federation, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    await asyncio.to_thread(authority.write_text, federation.azure.authority.pem)
    token = await federation.token()

    def acquire() -> dict[str, Any]:
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(authority)
            return acquire_by(session)

    def acquire_by(session: requests.Session) -> dict[str, Any]:
        client = msal.ConfidentialClientApplication(
            federation.identity.client_id,
            authority=f"{federation.azure.aad.url}/{federation.azure.directory.tenant_id}",
            client_credential={"client_assertion": lambda: token},
            instance_discovery=False,
            http_client=session,
        )
        answer: dict[str, Any] = client.acquire_token_for_client([SCOPE])
        return answer

    refused = await asyncio.to_thread(acquire)
    assert (refused["error"], refused["error_codes"]) == ("invalid_client", [70025])
    federation.trust()
    got = await asyncio.to_thread(acquire)
    assert read_claims(got["access_token"])["appid"] == federation.identity.client_id
