"""The response to a pod while IMDS returns no token, within the time limit. Excluded: the rest of the fetch."""

import asyncio

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.request import TokenRequest
from nmi.issuer import Issued
from nmi.refusal import Reason
from tests.nmi.fake_imds import Answer
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.identity.shapes import RESOURCE
from tests.nmi.issuer_bench import running_issuer
from tests.support.waiting import until


def other(number: int) -> TokenRequest:
    return TokenRequest(f"{RESOURCE}/{number}")


async def test_during_an_imds_update_a_pod_gets_retry_after_and_its_next_request_joins_the_fetch() -> None:
    async with running_issuer(policy=DecisionPolicy(max_hold_seconds=1.0), retry_delays=(0.3,)) as bench:
        await bench.with_pod()
        bench.imds.script = [Answer(410, b"{}")] * 1000
        first = asyncio.create_task(bench.issued())
        await until(lambda: len(bench.imds.calls) > 1)  # so the response to the first call has been read
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        refusal = await bench.refused()
        assert refusal.reason is Reason.UPSTREAM_UNAVAILABLE
        assert refusal.retry_after == 10.0
        bench.imds.script.clear()
        async with asyncio.timeout(DEADLINE):
            while not isinstance(await bench.issue(), Issued):
                pass
        assert bench.broker._metrics.fetches == 1


async def test_a_long_retry_after_of_imds_is_a_429_for_every_new_token_immediately() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        kept = await bench.issued()
        bench.imds.script = [Answer(429, b"{}", {"Retry-After": "20"})]
        for number in range(3):
            refusal = await bench.refused(other(number))
            assert refusal.reason is Reason.UPSTREAM_THROTTLED
            assert 10.0 < (refusal.retry_after or 0.0) <= 20.0
        assert len(bench.imds.calls) == 2
        assert (await bench.issued()).token == kept.token


async def test_a_repeatedly_failing_imds_is_not_called_and_pods_get_the_remaining_time() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        kept = await bench.issued()
        bench.imds.script = [Answer(503, b"{}")] * 6
        refusals = [await bench.refused(other(number)) for number in range(8)]
        assert {each.reason for each in refusals} == {Reason.UPSTREAM_UNAVAILABLE}
        assert len(bench.imds.calls) == 6
        assert all(1.0 <= (each.retry_after or 0.0) <= 6.0 for each in refusals[5:])
        assert (await bench.issued()).token == kept.token


@pytest.mark.parametrize(("status", "came_back"), [(508, True), (507, False)])
async def test_a_request_to_imds_that_came_back_to_nmi_is_named_in_the_log(status: int, came_back: bool) -> None:
    async with running_issuer(retry_delays=(0.1,)) as bench:
        await bench.with_pod()
        bench.imds.script = [Answer(status, b"{}")] * 6
        refusal = await bench.refused()
        assert refusal.reason is Reason.UPSTREAM_UNAVAILABLE
        assert ("was redirected to NMI" in refusal.detail) is came_back
        assert ("check that IMDS" in refusal.detail) is not came_back
        assert (len(bench.imds.calls) == 1) is came_back


async def test_requests_that_came_back_do_not_stop_the_calls_to_imds() -> None:
    async with running_issuer(retry_delays=()) as bench:
        await bench.with_pod()
        bench.imds.script = [Answer(508, b"{}")] * 8
        refusals = [await bench.refused(other(number)) for number in range(8)]
        assert all("was redirected to NMI" in each.detail for each in refusals)
        assert (await bench.issued()).token.access_token
