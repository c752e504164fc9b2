"""The time limit of waiting requests: their order, the one timer, and connections that end first."""

import asyncio

from nmi.refusal import Limit
from nmi.server.policy import ServerPolicy
from nmi.server.waiting_requests import WaitingRequests
from tests.nmi.server.fakes import ServerUnderTest, never, request_bytes


class Request:
    def __init__(self) -> None:
        self.expired = asyncio.Event()

    def expire(self) -> None:
        assert not self.expired.is_set(), "expired twice"
        self.expired.set()


async def test_requests_expire_in_the_order_in_which_they_began_to_wait_and_others_can_wait_again() -> None:
    waiting, first, answered, second, again = WaitingRequests(0.05), Request(), Request(), Request(), Request()
    waiting.add(first)
    waiting.add(answered)
    await asyncio.sleep(0.03)
    waiting.add(second)
    waiting.discard(answered)
    waiting.discard(answered)
    await first.expired.wait()
    assert not second.expired.is_set()
    await second.expired.wait()
    assert not answered.expired.is_set()
    assert len(waiting) == 0
    waiting.add(again)
    await again.expired.wait()


async def test_all_waiting_requests_expire_at_the_end_of_a_drain_once() -> None:
    waiting, requests = WaitingRequests(0.02), [Request() for _ in range(3)]
    for each in requests:
        waiting.add(each)
    waiting.expire_all()
    assert all(each.expired.is_set() for each in requests)
    waiting.expire_all()
    await asyncio.sleep(0.04)
    assert len(waiting) == 0


async def test_nothing_expires_after_the_timer_is_stopped() -> None:
    waiting, request = WaitingRequests(0.01), Request()
    waiting.add(request)
    waiting.close()
    waiting.close()
    await asyncio.sleep(0.03)
    assert not request.expired.is_set()


async def test_a_peer_that_goes_as_its_request_expires_gets_nothing(server: ServerUnderTest) -> None:
    server.issuer.answer = never
    server.lane.data_received(request_bytes())
    await asyncio.sleep(0)
    server.lane.expire()
    server.lane.peer_gone()
    await server.settle()
    assert server.connection.written == b""
    assert len(server.waiting) == 0


async def test_a_request_on_a_connection_whose_last_one_expired_has_its_own_time() -> None:
    server = ServerUnderTest(ServerPolicy(answer_seconds=0.01))
    good, server.issuer.answer = server.issuer.answer, never
    server.lane.data_received(request_bytes())
    await server.settle()
    server.issuer.answer = good
    server.lane.data_received(request_bytes())
    await server.settle()
    assert [each.status for each in server.replies()] == [503, 200]
    assert server.limits() == {Limit.ANSWER: 1}
