"""Clients that disconnect before their address is known: the time counts on, and the reads remain for others."""

import asyncio

from nmi.identity.pods import PodEntry
from tests.nmi.identity.lookup_bench import LookupBench
from tests.support.nmi_objects import ADDRESS, pod
from tests.virtual_time import now


async def abandoned(bench: LookupBench, address: str, after: float) -> bool:
    """Return whether a client that disconnects *after* that time does so without an answer."""
    try:
        async with asyncio.timeout(after):
            await bench.find(address)
    except TimeoutError:
        return True
    return False


async def test_the_five_seconds_count_from_the_first_request_of_the_address() -> None:
    bench, began = LookupBench(), now()
    assert [await abandoned(bench, ADDRESS, 2.0) for _ in range(2)] == [True, True]
    assert await bench.find() is None
    assert now() - began == 5.0
    assert await bench.find() is None
    assert now() - began == 5.0
    assert bench.waits.unknown_for(ADDRESS) == 1.0


async def test_an_attempt_after_the_five_seconds_gets_the_answer_that_no_client_waited_for() -> None:
    bench, began = LookupBench(), now()
    assert await abandoned(bench, ADDRESS, 2.0)
    await asyncio.sleep(3.5)
    assert bench.waits.unknown_for(ADDRESS) == 0.5
    assert await bench.find() is None
    assert now() - began == 5.5


async def test_a_request_after_that_answer_waits_again() -> None:
    bench = LookupBench()
    assert await abandoned(bench, ADDRESS, 2.0)
    await asyncio.sleep(40.0)
    began = now()
    assert await bench.find() is None
    assert now() == began
    assert await bench.find() is None
    assert now() - began == 5.0


async def test_a_new_pod_at_an_address_without_requests_for_a_minute_waits_five_seconds() -> None:
    bench = LookupBench()
    assert await abandoned(bench, ADDRESS, 2.0)
    await asyncio.sleep(63.0)
    began = now()
    assert await bench.find() is None
    assert now() - began == 5.0


async def test_a_pod_that_arrives_and_leaves_begins_the_time_again() -> None:
    bench = LookupBench()
    assert await abandoned(bench, ADDRESS, 2.0)
    bench.arrive(ADDRESS, PodEntry(pod()))
    del bench.entries[ADDRESS]
    began = now()
    assert await bench.find() is None
    assert now() - began == 5.0


async def test_one_read_is_sent_for_all_attempts_of_an_address() -> None:
    bench, began = LookupBench(), now()
    while await abandoned(bench, ADDRESS, 0.2):
        pass
    assert [round(at - began, 3) for at, _ in bench.reads] == [0.3]


async def test_the_read_of_an_abandoned_attempt_is_sent_for_the_next_one() -> None:
    bench, entry = LookupBench(), PodEntry(pod())
    bench.found_by_read[ADDRESS] = entry
    assert await abandoned(bench, ADDRESS, 0.2)
    await asyncio.sleep(0.5)
    assert bench.reads == []
    before = now()
    assert await bench.find() is entry
    assert now() == before


async def test_abandoned_attempts_do_not_delay_the_read_of_another_address() -> None:
    bench, entry = LookupBench(), PodEntry(pod())
    bench.found_by_read[ADDRESS] = entry
    # Each client disconnects when its read is due but not sent.
    await asyncio.gather(*(abandoned(bench, f"10.0.1.{number}", 0.35) for number in range(100)))
    before = now()
    assert await bench.find() is entry
    assert now() - before <= 0.5
