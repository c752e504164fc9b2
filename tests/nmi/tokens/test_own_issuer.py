"""A cluster outside Azure, whose issuer is a web server that serves copies of the API server's two documents.

Entra ID reaches that web server only, and never the API server.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from nmi.error_refusals import refusal_of
from podidentity.azure.errors import Refused
from podidentity_sandbox.federation import CONFIGURATION
from podidentity_sandbox.issuing import KEY_SET
from podidentity_sandbox.kubeapi.server import KubeApi
from tests.nmi.tokens.public_issuer import PublicIssuer
from tests.nmi.tokens.sign_in_bench import Bench, claims, running
from tests.nmi.tokens.test_federated_identities import Trust

URL = "https://issuer.example"


class OwnIssuer:
    """A cluster with its own issuer, and a federated credential that names it."""

    def __init__(self, trust: Trust, public: PublicIssuer, session: aiohttp.ClientSession) -> None:
        self.trust = trust
        self.public = public
        self._session = session
        trust.bench.aad.issuers.fetch = self._fetch_as_azure
        trust.trust_at_azure(issuer=URL)

    async def publish(self) -> None:
        """Copy the documents of the API server, and name the copy of the key set."""
        client = self.trust.bench.client
        self.public.files = {path: await client.request("GET", path) for path in (CONFIGURATION, KEY_SET)}

    async def _fetch_as_azure(self, url: str) -> bytes:
        assert url.startswith(URL), "Entra ID does not reach the API server"
        async with self._session.get(url, raise_for_status=True) as response:
            return await response.read()


@pytest.fixture
async def own() -> AsyncIterator[OwnIssuer]:
    public = PublicIssuer()
    async with (
        running(Bench(issuer=URL)) as bench,
        aiohttp.ClientSession(connector=bench.network.connector()) as session,
    ):
        bench.serve(URL, public.http())
        yield OwnIssuer(Trust(bench), public, session)


async def test_azure_reads_the_documents_of_the_issuer_only(own: OwnIssuer) -> None:
    await own.publish()
    assert claims(await own.trust.fetch())["appid"] == own.trust.managed.client_id
    assert own.public.requested == [CONFIGURATION, KEY_SET]


async def test_without_the_documents_the_refusal_has_azures_code(own: OwnIssuer) -> None:
    with pytest.raises(Refused) as refused:
        await own.trust.fetch()
    assert "AADSTS50166" in refusal_of(refused.value).sentence
    await own.publish()
    assert (await own.trust.fetch()).token.access_token


async def test_a_rotated_key_that_is_not_published_is_refused_with_azures_code(own: OwnIssuer) -> None:
    await own.publish()
    signer: Any = await KubeApi(issuer=URL)._tokens.signer()
    present = own.public.files[KEY_SET]
    own.public.files[KEY_SET] = json.dumps(signer.key_set()).encode()
    with pytest.raises(Refused) as refused:
        await own.trust.fetch()
    assert "AADSTS7000272" in refusal_of(refused.value).sentence
    own.public.files[KEY_SET] = present
    assert (await own.trust.fetch()).token.access_token
