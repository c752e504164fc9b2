"""MIC checks its lease after every wait, immediately before it sends a request that changes something."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from typing_extensions import override

from mic.azure.errors import Unreachable
from mic.azure.identities import HostIdentities, change
from mic.leader_client import LeaderClient
from podidentity.kube.access import ClusterAccess
from podidentity.kube.errors import NoResponse
from podidentity.kube.transport import CONNECTIONS_MAX
from tests.support.mic.arm_client import ArmUnderTest, Token, host, serving_arm
from tests.support.objects import identity_id, vm_id
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer
from tests.support.virtual_time import settle
from tests.support.waiting import until

WRITES = ("POST", "PUT", "PATCH", "DELETE")
OK = Reply({"kind": "Status"})
VM = host(vm_id())

SENT_IN_ONE_STEP = sys.version_info >= (3, 12)
"""Whether aiohttp sends the body in the same step of the event loop in which it has the connection."""


class Lease:
    """The remaining seconds, as set by the test."""

    seconds = 60.0
    brief = False
    """Whether the lease runs out after the step of the event loop in which it is asked for."""

    def remaining(self) -> float:
        if self.brief:
            asyncio.get_running_loop().call_soon(self.run_out)
        return self.seconds

    def run_out(self) -> None:
        self.seconds = 0.0


@pytest.fixture
def lease() -> Lease:
    return Lease()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start(loopback=True)
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
    assert [request.path for request in server.requests] == ["/a", "/c"]


@pytest.mark.parametrize(("left", "sent"), [(0.0, 0), (60.0, 1)])
async def test_a_write_that_waited_for_a_connection_is_sent_only_if_the_lease_is_still_valid(
    server: ScriptedServer, client: LeaderClient, lease: Lease, left: float, sent: int
) -> None:
    server.others += [None] * CONNECTIONS_MAX + [OK]
    hanging = [asyncio.create_task(client.request("GET", "/hangs")) for _ in range(CONNECTIONS_MAX)]
    await until(lambda: len(server.requests) >= CONNECTIONS_MAX)
    write = asyncio.create_task(client.request("PUT", "/write", body=b"{}"))
    await settle()
    assert not write.done()
    lease.seconds = left
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    outcome = (await asyncio.gather(write, return_exceptions=True))[0]
    assert isinstance(outcome, bytes if sent else NoResponse)
    assert sum(request.method == "PUT" for request in server.requests) == sent


@pytest.mark.parametrize(("body", "sent"), [(b"{}", SENT_IN_ONE_STEP), (None, True)])
async def test_a_write_is_sent_in_the_step_that_checks_the_lease(
    server: ScriptedServer, client: LeaderClient, lease: Lease, body: bytes | None, sent: bool
) -> None:
    server.others += [OK, OK, OK]
    await client.request("GET", "/a")  # so that an open connection is available
    lease.brief = True
    outcome = (await asyncio.gather(client.request("DELETE", "/b", body=body), return_exceptions=True))[0]
    assert isinstance(outcome, bytes if sent else NoResponse)
    if not sent:
        assert "the leader lease has run out" in str(outcome)
    await client.request("GET", "/c")
    assert [request.path for request in server.requests] == ["/a", *["/b"] * sent, "/c"]


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
        self.left = lease.seconds
        """The remaining seconds of the lease at the end of a token request."""

    @override
    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.lease.seconds = self.left
        return AccessToken(self.token, 0)  # requested again for each request


@pytest.fixture
async def azure(lease: Lease) -> AsyncIterator[ArmUnderTest]:
    def credential(token: str) -> SlowToken:
        return SlowToken(token, lease)

    async with serving_arm(credential, may_write=lambda: lease.remaining() > 10.0) as made:
        await made.compute.get(VM)  # so that an open connection is available
        yield made


async def updated(azure: ArmUnderTest) -> HostIdentities | BaseException:
    wanted = change(HostIdentities(), [identity_id("one")], [])
    assert wanted is not None
    return (await asyncio.gather(azure.compute.update(VM, wanted), return_exceptions=True))[0]


@pytest.mark.parametrize(("left", "writes"), [(10.0, 0), (10.1, 1)])
async def test_azure_is_changed_only_if_the_lease_outlasts_the_request_after_the_token_fetch(
    azure: ArmUnderTest, left: float, writes: int
) -> None:
    azure.credential.left = left
    outcome = await updated(azure)
    assert len(azure.arm.writes()) == writes
    assert isinstance(outcome, HostIdentities if writes else Unreachable)
    if not writes:
        assert "the leader lease has run out" in str(outcome)
        await azure.compute.get(VM)


async def test_a_change_of_azure_is_sent_in_the_step_that_checks_the_lease(azure: ArmUnderTest, lease: Lease) -> None:
    lease.brief = True
    outcome = await updated(azure)
    assert len(azure.arm.writes()) == SENT_IN_ONE_STEP
    if not SENT_IN_ONE_STEP:
        assert isinstance(outcome, Unreachable)
        assert "the leader lease has run out" in str(outcome)
    await azure.compute.get(VM)
