"""Fetches that several requests share, and the responses for pods while IMDS updates, throttles, hangs or fails.

Which pod is charged, and that a cancelled waiter affects no other. Excluded: the cache (`test_token_cache.py`), and the
breaker and the governor by themselves.
"""

import asyncio
import gc
from collections import Counter
from weakref import ref

import pytest

from nmi.identity.request import TokenRequest
from nmi.tokens.broker import UnsupportedTypeError
from nmi.tokens.flight import DRIFTING_MAX
from nmi.tokens.governor import CongestedError
from podidentity.azure.errors import AzureError, NotSent, NotYet, Throttled, Unreachable
from tests.support.nmi.imds import HANG, Reply
from tests.support.nmi.tokens.fakes import REQUEST, Bench, Node
from tests.support.nmi_objects import RESOURCE, identity
from tests.support.virtual_time import now, settle


@pytest.mark.parametrize("signs_in", [False, True], ids=["IMDS", "sign-in"])
@pytest.mark.parametrize("joins", [False, True], ids=["cached", "joined"])
async def test_a_sent_call_is_completed_without_waiters(fake: Bench, signs_in: bool, joins: bool) -> None:
    fake.source.signs_in = signs_in
    only = await fake.hold()
    only.cancel()
    await settle()
    assert only.cancelled()
    later = [asyncio.create_task(fake.token()) for _ in range(joins)]
    await settle()
    fake.source.gate.set()
    await settle()
    assert {await fake.token(), *await asyncio.gather(*later)} == {"token-1"}
    assert fake.source.sent == 1


async def test_a_waiter_that_gives_up_does_not_affect_the_others(fake: Bench) -> None:
    fake.source.gate.clear()
    first, second, third = (asyncio.create_task(fake.token(pod=f"ns/{n}")) for n in range(3))
    await settle()
    first.cancel()
    second.cancel()
    await settle()
    fake.source.gate.set()
    assert await third == "token-1"
    assert first.cancelled()
    assert fake.source.sent == 1


async def test_a_queued_flight_is_dropped_with_its_last_waiter() -> None:
    bench = Bench(at_once=1)
    async with bench.governor.permit("ns/busy"):
        only = asyncio.create_task(bench.token())
        await settle()
        assert bench.governor.waiting == 1
        only.cancel()
        await settle()
        assert bench.governor.waiting == 0
    assert bench.source.sent == 0
    assert await bench.token() == "token-1"


@pytest.mark.parametrize("steps", range(1, 5))
async def test_a_request_at_the_moment_of_the_drop_gets_a_new_flight(steps: int) -> None:
    bench = Bench(at_once=1)
    async with bench.governor.permit("ns/busy"):
        first = asyncio.create_task(bench.token(pod="ns/first"))
        await settle()
        first.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)
        second = asyncio.create_task(bench.token(pod="ns/second"))
        await settle()
    assert await second == "token-1"


@pytest.mark.parametrize(
    ("signs_in", "failures"), [(False, []), (True, [AzureError("busy", status=503)])], ids=["IMDS", "sign-in"]
)
async def test_a_flight_without_waiters_makes_no_second_attempt(
    fake: Bench, signs_in: bool, failures: list[Exception]
) -> None:
    fake.source.signs_in = signs_in
    fake.source.retry = lambda: True
    fake.source.failures = [*failures]
    only = await fake.hold()
    only.cancel()
    await settle()
    fake.source.gate.set()
    await settle()
    assert fake.source.sent == 1
    assert not fake.broker._flights


async def test_a_failure_reaches_every_waiter(fake: Bench) -> None:
    fake.source.failures = [AzureError("down", status=503)]
    results = await asyncio.gather(*(fake.token(pod=f"ns/{n}") for n in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [AzureError] * 5
    assert fake.source.sent == 1
    assert await fake.token() == "token-2"


@pytest.mark.parametrize("signs_in", [False, True], ids=["IMDS", "sign-in"])
async def test_closing_cancels_the_flights_and_notifies_the_waiters(fake: Bench, signs_in: bool) -> None:
    fake.source.signs_in = signs_in
    waiter = await fake.hold()
    await fake.broker.aclose()
    with pytest.raises(Unreachable):
        await waiter
    assert fake.governor.in_flight == 0
    await fake.broker.aclose()


async def test_the_timer_of_a_refresh_retains_no_flight(fake: Bench) -> None:
    waiter = await fake.hold()
    (running,) = fake.broker._flights._flights.values()
    flight = ref(running)
    del running
    fake.source.gate.set()
    await waiter
    fake.source.contexts.clear()
    gc.collect()
    assert flight() is None
    assert len(fake.broker._timers) == 1


HOUR = 3600.0


async def test_a_type_without_a_source_has_its_own_error(fake: Bench) -> None:
    assert fake.broker.supports(identity())
    assert not fake.broker.supports(identity(type_=1))
    with pytest.raises(UnsupportedTypeError):
        await fake.broker.token(identity(type_=1), REQUEST, "ns/a")


def other(number: int) -> TokenRequest:
    return TokenRequest(f"{RESOURCE}/{number}")


async def test_a_flight_outlasts_an_imds_update_and_its_waiters_do_not(node: Node) -> None:
    start = now()
    node.imds.behave = lambda _call: Reply(410, body=b"{}") if now() < start + 66.0 else Reply()
    with pytest.raises(NotYet) as raised:
        await node.token(within=45.0)
    assert 44.0 < now() - start <= 45.0
    assert (raised.value.status, raised.value.retry_after) == (410, 10.0)
    await asyncio.sleep(5.0)
    token = await node.token(pod="ns/b", within=45.0)
    assert now() - start < 75.0
    assert (await node.token()) is token
    assert node.measures.fetches == 1
    tries = [call.begun - start for call in node.imds.calls]
    assert tries == pytest.approx([0, 2, 6, 14, 24, 34, 44, 54, 64, 70], abs=0.5)


async def test_an_endpoint_that_is_not_back_after_seventy_seconds_has_failed(node: Node) -> None:
    start = now()
    node.imds.behave = lambda _call: Reply(410, body=b"{}")
    with pytest.raises(NotYet):
        await node.token(within=45.0)
    with pytest.raises(NotYet):
        await node.token(within=45.0)
    assert 70.0 <= now() - start < 71.0
    assert node.breaker.opened == 0
    assert not node.broker._flights


async def test_an_update_during_a_refresh_affects_no_pod(node: Node) -> None:
    await node.token()
    before = await node.token()  # a token that is used is refreshed
    await asyncio.sleep(12 * 3600 - 10.0)
    end = now() + 70.0
    node.imds.behave = lambda _call: Reply(410, body=b"{}") if now() < end else Reply()
    while now() < end + 20.0:
        begun = now()
        token = await node.token()
        assert now() == begun
        await asyncio.sleep(1.0)
    assert token is not before


async def test_a_namespace_whose_fetches_continue_without_waiters_ends_only_its_own(node: Node) -> None:
    node.imds.behave = lambda _call: Reply(410, body=b"{}")
    requests = [node.token(other(n), pod=f"evil/{n}", within=20.0, namespace="evil") for n in range(60)]
    await asyncio.gather(*requests, return_exceptions=True)
    await settle()
    drifting = Counter(flight.namespace for flight in node.broker._flights._flights.values() if flight.drifting)
    assert drifting == {"evil": DRIFTING_MAX}
    assert not node.broker._flights.let_drift("evil")
    assert node.broker._flights.let_drift("shop")
    await settle()
    drifting = Counter(flight.namespace for flight in node.broker._flights._flights.values() if flight.drifting)
    assert drifting == {"evil": DRIFTING_MAX - 1}


async def test_a_long_pause_is_reported_to_all_requests_for_new_tokens_and_cached_tokens_are_served(node: Node) -> None:
    cached = await node.token()
    start = now()
    node.imds.behave = lambda _call: Reply(429, b"{}", {"Retry-After": "25"})
    for number in range(3):
        with pytest.raises(Throttled) as raised:
            await node.token(other(number))
        assert raised.value.status == 429
        assert raised.value.retry_after == pytest.approx(25.0 - (now() - start), abs=0.1)
        await asyncio.sleep(5.0)
    assert now() - start < 16.0
    assert len(node.imds.calls) == 2
    assert await node.token() is cached
    node.imds.behave = lambda _call: Reply()
    await asyncio.sleep(10.1)
    await node.token(other(9))


async def test_a_request_that_joins_a_paused_flight_gets_the_pause_at_its_time_limit(node: Node) -> None:
    node.governor.pause(9.0)
    patient = asyncio.create_task(node.token(within=30.0))
    await settle()
    with pytest.raises(Throttled) as raised:
        await node.token(pod="ns/b", within=2.0)
    assert raised.value.retry_after == pytest.approx(7.0, abs=0.1)
    await patient


async def test_a_request_that_waits_for_a_permit_gets_that_reason_at_its_time_limit(node: Node) -> None:
    node.imds.behave = lambda _call: Reply(seconds=8.0)
    busy = [asyncio.create_task(node.token(other(n), pod=f"ns/{n}")) for n in range(5)]
    await asyncio.sleep(0.5)
    with pytest.raises(CongestedError):
        await node.token(pod="ns/late", within=3.0)
    await asyncio.gather(*busy)


async def test_a_request_without_a_response_in_time_gets_that_reason_and_the_next_one_gets_the_token(
    node: Node,
) -> None:
    node.imds.behave = lambda _call: Reply(seconds=4.0)
    before = now()
    with pytest.raises(Unreachable) as raised:
        await node.token(within=3.0)
    assert raised.value.code == "timeout"
    assert 2.9 <= now() - before <= 3.0
    await node.token(within=3.0)
    assert len(node.imds.calls) == 1


@pytest.mark.parametrize("reply", [HANG, Reply(lost=True), Reply(503, body=b"{}")], ids=["hangs", "lost", "503"])
async def test_while_imds_is_down_requests_fail_immediately_and_cached_tokens_are_served(
    node: Node, reply: Reply
) -> None:
    cached = await node.token()
    node.imds.behave = lambda _call: reply
    requests = [node.token(other(n), pod=f"ns/{n}") for n in range(5)]
    assert all(isinstance(result, AzureError) for result in await asyncio.gather(*requests, return_exceptions=True))
    down_since = now()
    calls = len(node.imds.calls)
    slow = 0
    for number in range(300):
        before = now()
        with pytest.raises(AzureError) as raised:
            await node.token(other(number), pod=f"ns/{number % 7}")
        assert isinstance(raised.value, NotSent) or now() - before <= 10.1 or slow < 12
        slow += now() - before > 0.5
        assert await node.token() is cached
        await asyncio.sleep(1.0)
    # One probe for each pause, not five calls at any time.
    assert len(node.imds.calls) - calls <= (now() - down_since) / 15.0 + 4
    node.imds.behave = lambda _call: Reply()
    await asyncio.sleep(40.0)
    await node.token(other(1000))
    before = now()
    await node.token(other(1001))
    assert now() - before < 0.5


async def test_a_failure_that_opens_the_breaker_causes_no_pause_for_a_retry(node: Node) -> None:
    node.imds.behave = lambda _call: HANG
    start = now()
    ended: list[float] = []

    async def ask(number: int) -> None:
        with pytest.raises(NotSent):
            await node.token(other(number), pod=f"ns/{number}")
        ended.append(now() - start)

    await asyncio.gather(*(ask(number) for number in range(20)))
    # Five attempts of ten seconds: the fifth ends the waiting requests; two seconds later the four before end.
    assert ended[11] < 10.2
    assert ended[15] < 12.2
    assert len(node.imds.calls) <= 10


async def test_a_token_about_to_expire_is_served_immediately_while_the_breaker_is_open(node: Node) -> None:
    node.imds.lifetime = 3600
    cached = await node.token()
    await asyncio.sleep(HOUR - 240.0)
    node.imds.behave = lambda _call: Reply(503, body=b"{}")
    await asyncio.gather(*(node.token(other(n), pod=f"ns/{n}") for n in range(5)), return_exceptions=True)
    assert node.breaker.opened == 1
    before = now()
    assert await node.token() is cached
    assert now() == before
    assert node.measures.stale_served == 1


async def test_without_the_cache_a_flight_outlasts_an_update_too() -> None:
    node = Node(caching=False)
    start = now()
    node.imds.behave = lambda _call: Reply(410, body=b"{}") if now() < start + 30.0 else Reply()
    await node.token(REQUEST, within=45.0)
    assert len(node.broker._tokens) == 0
