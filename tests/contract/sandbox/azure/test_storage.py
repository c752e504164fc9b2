"""Blob Storage of the tests with SDKs accepts tokens of callers with a role only.

The programs of tests/system/sdks show that it serves what they need.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from podidentity_sandbox.directory import Directory
from tests.contract.sandbox.azure.conftest import MINT
from tests.support.sandbox import storage
from tests.support.sandbox.storage import Storage

HOST = "account.blob.core.windows.net"
AUDIENCE = "https://storage.azure.com"


@dataclass
class Client:
    service: Storage
    directory: Directory
    session: aiohttp.ClientSession

    def __post_init__(self) -> None:
        self.identity = self.directory.add_identity("/one")
        self.directory.grant(self.identity.object_id, storage.ROLES[0])

    def token(self, audience: str = AUDIENCE, *, object_id: str = "") -> str:
        caller = object_id or self.identity.object_id
        return MINT.mint(audience=audience, client_id="c", object_id=caller, tenant_id="t")

    async def list_containers(self, token: str) -> tuple[int, str, aiohttp.ClientResponse]:
        headers = {"Host": HOST, **({"Authorization": f"Bearer {token}"} if token else {})}
        async with self.session.get(f"{self.service.url}/?comp=list", headers=headers) as response:
            return response.status, await response.text(), response


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    directory = Directory()
    service = Storage(directory, MINT)
    await service.start()
    async with aiohttp.ClientSession() as session:
        yield Client(service, directory, session)
    await service.stop()


async def test_only_a_call_with_a_valid_token_of_a_caller_with_a_role_is_accepted(client: Client) -> None:
    for audience in (AUDIENCE, f"{AUDIENCE}/", "https://account.blob.core.windows.net"):
        assert (await client.list_containers(client.token(audience)))[0] == 200
        call = client.service.calls[-1]
        assert (call.caller, call.account, call.status) == (client.identity.object_id, "account", 200)
    for token in ("", "nonsense", client.token("https://management.azure.com"), client.token("https://storage.evil")):
        status, _, response = await client.list_containers(token)
        assert (status, "WWW-Authenticate" in response.headers) == (401, True)

    status, body, _ = await client.list_containers(client.token(object_id="other"))
    assert (status, "AuthorizationPermissionMismatch" in body) == (403, True)
