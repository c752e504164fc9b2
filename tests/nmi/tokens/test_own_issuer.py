"""A cluster outside Azure, whose issuer is a web server that serves copies of the API server's two documents.

Entra ID reaches that web server only, and never the API server.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from nmi.error_refusals import refusal_of
from podidentity.azure.errors import Refused
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.federation import CONFIGURATION
from podidentity_sandbox.issuing import KEY_SET, fetch
from podidentity_sandbox.kubeapi.server import KubeApi
from tests.nmi.tokens.public_issuer import PublicIssuer
from tests.nmi.tokens.sign_in_bench import Bench, claims, running
from tests.nmi.tokens.test_federated_identities import Trust


class OwnIssuer:
    """A cluster with its own issuer, and a federated credential that names it."""

    def __init__(self, trust: Trust, public: PublicIssuer, session: aiohttp.ClientSession) -> None:
        self.trust = trust
        self.public = public
        self._session = session
        trust.bench.aad.issuers.fetch = self._fetch_as_azure
        trust.trust_at_azure(issuer=public.url)

    async def publish(self) -> None:
        """Copy the documents of the API server, and name the copy of the key set."""
        access = self.trust.bench.client.access
        self.public.files = {
            CONFIGURATION: await fetch(access, access.server + CONFIGURATION),
            KEY_SET: await fetch(access, access.server + KEY_SET),
        }

    async def _fetch_as_azure(self, url: str) -> bytes:
        assert url.startswith(self.public.url), "Entra ID does not reach the API server"
        async with self._session.get(url, raise_for_status=True) as response:
            return await response.read()


@pytest.fixture
async def own() -> AsyncIterator[OwnIssuer]:
    authority, public = Authority("web"), PublicIssuer()
    context = await asyncio.to_thread(authority.server_context, LOOPBACK)
    await public.start(ssl_context=context)
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with running(Bench(issuer=public.url)) as bench, aiohttp.ClientSession(connector=connector) as session:
        yield OwnIssuer(Trust(bench), public, session)
    await public.stop()


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
    other: KubeApi = await asyncio.to_thread(KubeApi, issuer=own.public.url)
    await own.publish()
    signer: Any = await other._tokens.signer()
    present = own.public.files[KEY_SET]
    own.public.files[KEY_SET] = json.dumps(signer.key_set()).encode()
    with pytest.raises(Refused) as refused:
        await own.trust.fetch()
    assert "AADSTS7000272" in refusal_of(refused.value).sentence
    own.public.files[KEY_SET] = present
    assert (await own.trust.fetch()).token.access_token
