"""A sent sign-in is completed for the next request; a sign-in without waiters is not retried."""

import asyncio

import pytest

from podidentity.azure.errors import AzureError, Unreachable
from tests.nmi.tokens.fakes import Bench
from tests.virtual_time import settle


def bench_that_signs_in() -> Bench:
    bench = Bench()
    bench.source.signs_in = True
    return bench


async def given_up(bench: Bench) -> None:
    """A request that ends while its sign-in is in flight."""
    asking = await bench.hold()
    assert bench.source.sent == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_the_result_is_cached_although_no_request_waits() -> None:
    bench = bench_that_signs_in()
    await given_up(bench)
    bench.source.gate.set()
    await settle()
    assert await bench.token() == "token-1"
    assert bench.source.sent == 1


async def test_a_later_request_joins_the_sign_in() -> None:
    bench = bench_that_signs_in()
    await given_up(bench)
    asking = asyncio.create_task(bench.token())
    await settle()
    bench.source.gate.set()
    assert await asking == "token-1"


async def test_a_failed_sign_in_without_waiters_is_not_retried() -> None:
    bench = bench_that_signs_in()
    bench.source.retry = lambda: True
    bench.source.failures = [AzureError("busy", status=503)]
    await given_up(bench)
    bench.source.gate.set()
    await settle()
    assert bench.source.sent == 1
    assert not bench.broker._flights
    bench.source.retry = lambda: False
    assert await bench.token() == "token-2"


async def test_shutdown_ends_the_sign_in_too() -> None:
    bench = bench_that_signs_in()
    asking = await bench.hold()
    await bench.broker.aclose()
    with pytest.raises(Unreachable):
        await asking
