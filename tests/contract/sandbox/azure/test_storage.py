"""Blob Storage of the sandbox: authorization by token, containers, blobs, blocks, leases and limits."""

import io
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

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | io.BytesIO = b"",
        *,
        token: str | None = None,
        host: str = HOST,
        **headers: str,
    ) -> tuple[int, str, aiohttp.ClientResponse]:
        """Send a request as the identity, or with another token (empty: none)."""
        bearer = self.token() if token is None else token
        sent = {"Host": host, **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, f"{self.service.url}{path}", data=body, headers=sent) as response:
            return response.status, await response.text(), response


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    directory = Directory()
    service = Storage(directory, MINT)
    await service.start()
    async with aiohttp.ClientSession() as session:
        yield Client(service, directory, session)
    await service.stop()


@pytest.fixture
async def container(client: Client) -> Client:
    """Return a client whose account has the container `c`."""
    assert (await client.call("PUT", "/c?restype=container"))[0] == 201
    return client


async def test_only_a_call_with_a_valid_token_of_a_caller_with_a_role_is_accepted(client: Client) -> None:
    for audience in (AUDIENCE, f"{AUDIENCE}/", "https://account.blob.core.windows.net"):
        assert (await client.call("GET", "/?comp=list", token=client.token(audience)))[0] == 200
        call = client.service.calls[-1]
        assert (call.caller, call.account, call.status) == (client.identity.object_id, "account", 200)
    for token in ("", "nonsense", client.token("https://management.azure.com"), client.token("https://storage.evil")):
        status, _, response = await client.call("GET", "/?comp=list", token=token)
        assert (status, "WWW-Authenticate" in response.headers) == (401, True)

    status, body, _ = await client.call("GET", "/?comp=list", token=client.token(object_id="other"))
    assert (status, "AuthorizationPermissionMismatch" in body) == (403, True)


async def test_a_blob_is_written_listed_read_and_deleted(container: Client) -> None:
    headers = {"x_ms_blob_type": "BlockBlob", "x_ms_meta_kind": "test"}
    assert (await container.call("PUT", "/c/a/b.txt", b"content", **headers))[0] == 201
    assert "<Name>a/b.txt</Name>" in (await container.call("GET", "/c?restype=container&comp=list"))[1]
    status, body, response = await container.call("GET", "/c/a/b.txt")
    assert (status, body, response.headers["x-ms-meta-kind"]) == (200, "content", "test")
    assert (await container.call("GET", "/c/a/b.txt", Range="bytes=3-"))[:2] == (206, "tent")
    assert (await container.call("GET", "/c/a/b.txt", x_ms_range="bytes=0-99"))[:2] == (206, "content")
    assert (await container.call("GET", "/c/a/b.txt", Range="bytes=9-"))[0] == 416
    assert (await container.call("DELETE", "/c/a/b.txt"))[0] == 202
    assert (await container.call("GET", "/c/a/b.txt"))[0] == 404


async def test_a_list_has_the_prefix_and_folders_that_were_requested(container: Client) -> None:
    for name in ("a/1", "a/2", "b/1", "top"):
        await container.call("PUT", f"/c/{name}", b"x")
    _, listed, _ = await container.call("GET", "/c?restype=container&comp=list&delimiter=/")
    assert "<BlobPrefix><Name>a/</Name></BlobPrefix><BlobPrefix><Name>b/</Name></BlobPrefix>" in listed
    assert "<Name>top</Name>" in listed
    _, listed, _ = await container.call("GET", "/c?restype=container&comp=list&prefix=a/")
    assert ("<Name>a/1</Name>" in listed, "<Name>b/1</Name>" in listed) == (True, False)


async def test_blocks_become_a_blob_in_the_order_of_their_list(container: Client) -> None:
    await container.call("PUT", "/c/big?comp=block&blockid=MQ==", b"world")
    await container.call("PUT", "/c/big?comp=block&blockid=MA==", b"hello ")
    listed = b"<BlockList><Latest>MA==</Latest><Latest>MQ==</Latest></BlockList>"
    assert (await container.call("PUT", "/c/big?comp=blocklist", listed))[0] == 201
    assert (await container.call("GET", "/c/big"))[1] == "hello world"


@pytest.mark.parametrize("body", [b"", b"<a", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'])
async def test_an_invalid_block_list_is_refused(container: Client, body: bytes) -> None:
    assert (await container.call("PUT", "/c/big?comp=blocklist", body))[0] == 400


async def test_a_lease_keeps_others_from_writing(container: Client) -> None:
    await container.call("PUT", "/c/state", b"1")
    acquire = {"x_ms_lease_action": "acquire", "x_ms_lease_duration": "-1", "x_ms_proposed_lease_id": "one"}
    assert (await container.call("PUT", "/c/state?comp=lease", b"", **acquire))[0] == 201
    other_lease = {**acquire, "x_ms_proposed_lease_id": "two"}
    assert (await container.call("PUT", "/c/state?comp=lease", b"", **other_lease))[0] == 409
    assert (await container.call("PUT", "/c/state", b"2"))[0] == 412
    assert (await container.call("DELETE", "/c/state"))[0] == 412
    assert (await container.call("GET", "/c/state"))[1] == "1"
    assert (await container.call("PUT", "/c/state", b"2", x_ms_lease_id="one"))[0] == 201
    wrong = {"x_ms_lease_action": "release", "x_ms_lease_id": "two"}
    assert (await container.call("PUT", "/c/state?comp=lease", b"", **wrong))[0] == 409
    assert (await container.call("PUT", "/c/state?comp=lease", b"", **{**wrong, "x_ms_lease_id": "one"}))[0] == 200
    assert (await container.call("PUT", "/c/state", b"3"))[0] == 201


async def test_accounts_do_not_share_containers(container: Client) -> None:
    other_host = "other.blob.core.windows.net"
    assert (await container.call("GET", "/c?restype=container", host=other_host))[0] == 404
    assert (await container.call("GET", "/c?restype=container"))[0] == 200


async def test_the_number_and_the_bytes_of_blobs_are_bounded(
    container: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BLOBS_MAX", 2)
    monkeypatch.setattr(storage, "BYTES_MAX", 10)
    assert (await container.call("PUT", "/c/a", b"12345678"))[0] == 201
    assert (await container.call("PUT", "/c/b", b"123"))[0] == 507
    assert (await container.call("PUT", "/c/b?comp=block&blockid=MQ==", b"1"))[0] == 201
    assert (await container.call("PUT", "/c/d", b"1"))[0] == 507
    assert (await container.call("PUT", "/d?restype=container"))[0] == 201
    assert (await container.call("PUT", "/e?restype=container"))[0] == 507
    assert (await container.call("PUT", "/c/d", io.BytesIO(b"1" * (2 << 20))))[0] == 413


async def test_what_is_not_served_is_refused(container: Client) -> None:
    assert (await container.call("PUT", "/?comp=properties&restype=service"))[0] == 400
    assert (await container.call("GET", "/absent/a"))[0] == 404
    assert (await container.call("PUT", "/c?restype=container"))[0] == 409
    await container.call("PUT", "/c/a", b"1")
    assert (await container.call("PATCH", "/c/a"))[0] == 405
