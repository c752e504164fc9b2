"""Single flight: the requests that share a fetch, the charged pod, and that a cancelled waiter affects no other.

Excluded: the cache (`test_token_cache.py`).
"""

import asyncio

import pytest

from nmi.tokens.broker import UnsupportedTypeError
from nmi.tokens.metrics import USER_ASSIGNED
from podidentity.azure.errors import AzureError, Unreachable
from tests.support.nmi.tokens.fakes import FORCE_REFRESH, REQUEST, Bench, Node
from tests.support.nmi_objects import identity
from tests.support.virtual_time import settle


async def test_a_hundred_first_requests_make_one_call_to_imds(node: Node) -> None:
    tokens = await asyncio.gather(*(node.token(pod=f"ns/{number}") for number in range(100)))
    assert len({cached.token.access_token for cached in tokens}) == 1
    await node.token(pod="ns/late")
    assert len(node.imds.calls) == 1
    count = "aadpodidentity_imds_operations_duration_seconds_count"
    assert node.registry.get_sample_value(count, {"operation_type": USER_ASSIGNED}) == 1.0


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


async def test_a_request_at_the_moment_of_the_drop_gets_a_new_flight() -> None:
    bench = Bench(at_once=1)
    async with bench.governor.permit("ns/busy"):
        first = asyncio.create_task(bench.token(pod="ns/first"))
        await settle()
        first.cancel()
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
    assert [type(each) for each in results] == [AzureError] * 5
    assert fake.source.sent == 1
    assert await fake.token() == "token-2"


async def test_force_refresh_never_joins_an_earlier_fetch(fake: Bench) -> None:
    ordinary = await fake.hold()
    refreshed = asyncio.create_task(fake.token(FORCE_REFRESH))
    await settle()
    fake.source.gate.set()
    assert await ordinary != await refreshed
    assert [each.force_refresh for each in fake.source.requests] == [False, True]


@pytest.mark.parametrize("signs_in", [False, True], ids=["IMDS", "sign-in"])
async def test_closing_cancels_the_flights_and_notifies_the_waiters(fake: Bench, signs_in: bool) -> None:
    fake.source.signs_in = signs_in
    waiter = await fake.hold()
    await fake.broker.aclose()
    with pytest.raises(Unreachable):
        await waiter
    assert fake.governor.in_flight == 0
    await fake.broker.aclose()


async def test_a_type_without_a_source_has_its_own_error(fake: Bench) -> None:
    assert fake.broker.supports(identity())
    assert not fake.broker.supports(identity(type_=1))
    with pytest.raises(UnsupportedTypeError):
        await fake.broker.token(identity(type_=1), REQUEST, "ns/a")
