"""MIC checks its lease after every wait, immediately before it sends a request that changes something."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from typing_extensions import override

from mic.azure.compute import Compute
from mic.azure.errors import Unreachable
from mic.azure.identities import HostIdentities, change
from mic.leader_client import LeaderClient
from podidentity.azure.clouds import Cloud
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.kube.access import ClusterAccess
from podidentity.kube.errors import NoResponse
from podidentity.kube.transport import CONNECTIONS_MAX
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.tokens import TokenMint
from tests.mic.cluster import identity_id, vm_id
from tests.mic.test_compute_requests import Token
from tests.podidentity.kube.scripted import Reply, ScriptedServer

WRITES = ("POST", "PUT", "PATCH", "DELETE")
OK = Reply({"kind": "Status"})


class Lease:
    """The remaining seconds, as set by the test."""

    seconds = 60.0

    def remaining(self) -> float:
        return self.seconds


@pytest.fixture
def lease() -> Lease:
    return Lease()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
async def client(server: ScriptedServer, lease: Lease) -> AsyncIterator[LeaderClient]:
    async with LeaderClient(ClusterAccess(server.url), user_agent="test", remaining_seconds=lease.remaining) as opened:
        yield opened


@pytest.mark.parametrize("method", WRITES)
async def test_a_write_is_rejected_after_the_lease_has_expired_and_a_read_is_not(
    server: ScriptedServer, client: LeaderClient, lease: Lease, method: str
) -> None:
    server.others += [OK, OK]
    assert await client.request(method, "/a", body=b"{}")
    lease.seconds = 0.0
    with pytest.raises(NoResponse, match="the leader lease has run out"):
        await client.request(method, "/b", body=b"{}")
    await client.request("GET", "/c")
    assert [each.path for each in server.requests] == ["/a", "/c"]


@pytest.mark.parametrize(("left", "sent"), [(0.0, 0), (60.0, 1)])
async def test_a_write_that_waited_for_a_connection_is_sent_only_if_the_lease_is_still_valid(
    server: ScriptedServer, client: LeaderClient, lease: Lease, left: float, sent: int
) -> None:
    server.others += [None] * CONNECTIONS_MAX + [OK]
    hanging = [asyncio.create_task(client.request("GET", "/hangs")) for _ in range(CONNECTIONS_MAX)]
    async with asyncio.timeout(15):
        while len(server.requests) < CONNECTIONS_MAX:
            await asyncio.sleep(0.001)
    write = asyncio.create_task(client.request("PUT", "/write", body=b"{}"))
    await asyncio.sleep(0.05)
    assert not write.done()
    lease.seconds = left
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    outcome = (await asyncio.gather(write, return_exceptions=True))[0]
    assert isinstance(outcome, bytes if sent else NoResponse)
    assert sum(each.method == "PUT" for each in server.requests) == sent


async def test_a_write_waits_only_while_the_lease_is_valid(
    server: ScriptedServer, client: LeaderClient, lease: Lease
) -> None:
    server.others += [None]
    lease.seconds = 0.2
    with pytest.raises(NoResponse, match=r"no response from .* within 0.2 s"):
        await client.request("PATCH", "/a", body=b"{}")


class SlowToken(Token):
    """A credential whose token request can take longer than the lease."""

    def __init__(self, token: str, lease: Lease) -> None:
        super().__init__(token)
        self.lease = lease
        self.left: dict[str, float] = {}

    @override
    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.lease.seconds = self.left.get("", self.lease.seconds)
        return AccessToken(self.token, 0)  # requested again for each request


@pytest.mark.parametrize(("left", "writes"), [(10.0, 0), (10.1, 1)])
async def test_azure_is_changed_only_if_the_lease_outlasts_the_request_after_the_token_fetch(
    lease: Lease, left: float, writes: int
) -> None:
    directory, mint, authority = Directory(), await asyncio.to_thread(TokenMint), await asyncio.to_thread(Authority)
    arm = Arm(directory, mint)
    await arm.start(ssl_context=await asyncio.to_thread(authority.server_context))
    principal = directory.add_principal()
    directory.grant(principal.object_id, "Contributor")
    directory.add_identity(identity_id("one"))
    arm.add_vm(vm_id(), operation_seconds=0.0)
    token = mint.mint(
        audience="https://management.azure.com",
        client_id=principal.client_id,
        object_id=principal.object_id,
        tenant_id=directory.tenant_id,
    )
    credential = SlowToken(token, lease)
    compute = Compute(
        credential,
        Cloud("sandbox", arm.url, arm.url, "https://management.azure.com/", frozenset()),
        user_agent="test",
        ssl_context=authority.client_context(),
        may_write=lambda: lease.remaining() > 10.0,
    )
    host = parse_provider_id(f"azure://{vm_id()}")
    wanted = change(HostIdentities(), [identity_id("one")], [])
    assert host is not None
    assert wanted is not None
    try:
        await compute.get(host)  # so that an open connection is available
        credential.left[""] = left
        outcome = (await asyncio.gather(compute.update(host, wanted), return_exceptions=True))[0]
        assert len(arm.writes()) == writes
        assert isinstance(outcome, HostIdentities if writes else Unreachable)
        if not writes:
            assert "the leader lease has run out" in str(outcome)
            await compute.get(host)
    finally:
        await compute.aclose()
        await arm.stop()
