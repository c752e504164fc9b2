"""The memory of requests that wait for an unknown address: limited in all, and shared between the addresses."""

import asyncio

import pytest

from nmi.connection_limits import PLACES_PER_POD
from nmi.identity.lookup_wait import REMEMBERED_MAX, WAITERS_MAX, WAITING_BYTES
from nmi.identity.pods import PodEntry
from nmi.refusal import NO_ROOM_TO_WAIT, Refusal
from tests.nmi.identity.lookup_bench import LookupBench
from tests.support.nmi_objects import pod
from tests.virtual_time import now, settle

CROWD = "10.0.9.9"
NEW_PODS = [f"10.0.1.{number}" for number in range(6)]


def counted(ended: list[PodEntry | Refusal | None]) -> tuple[int, int]:
    """Return how many requests were displaced, and how many waited until the end."""
    return sum(each is NO_ROOM_TO_WAIT for each in ended), sum(each is None for each in ended)


@pytest.mark.parametrize(
    "crowds",
    [{CROWD: WAITERS_MAX}, {CROWD: WAITERS_MAX // 2, "10.0.9.8": WAITERS_MAX // 2}],
    ids=["one address", "two addresses"],
)
async def test_new_pods_are_waited_for_next_to_many_requests_of_unknown_addresses(crowds: dict[str, int]) -> None:
    bench, entries = LookupBench(), {address: PodEntry(pod()) for address in NEW_PODS}
    crowd = [task for address, requests in crowds.items() for task in await bench.waiting(address, requests)]
    new = [task for address in NEW_PODS for task in await bench.waiting(address, 1)]
    assert bench.waits.waiting == WAITERS_MAX
    await asyncio.sleep(0.8)
    for address, entry in entries.items():
        bench.arrive(address, entry)
    assert await asyncio.gather(*new) == list(entries.values())
    assert counted(await asyncio.gather(*crowd)) == (len(new), WAITERS_MAX - len(new))
    assert bench.waits.waiting == 0


async def test_an_address_that_has_its_share_displaces_no_other() -> None:
    bench = LookupBench()
    crowd = await bench.waiting(CROWD, WAITERS_MAX // 2)
    other = await bench.waiting("10.0.9.8", WAITERS_MAX // 2)
    before = now()
    assert await asyncio.gather(*(bench.find(CROWD) for _ in range(100))) == [NO_ROOM_TO_WAIT] * 100
    assert now() == before, "it does not wait for its refusal"
    assert not any(task.done() for task in (*crowd, *other))
    assert counted(await asyncio.gather(*crowd, *other)) == (0, WAITERS_MAX)


async def test_of_a_crowded_address_the_newest_request_is_displaced() -> None:
    bench = LookupBench()
    crowd = await bench.waiting(CROWD, WAITERS_MAX)
    await bench.waiting(NEW_PODS[0], 1)
    assert [number for number, task in enumerate(crowd) if task.done()] == [WAITERS_MAX - 1]


async def test_with_one_request_of_each_address_none_is_displaced() -> None:
    bench = LookupBench()
    waiting = [asyncio.create_task(bench.find(f"10.1.{n // 256}.{n % 256}")) for n in range(WAITERS_MAX)]
    await settle()
    assert await bench.find("10.0.1.1") is NO_ROOM_TO_WAIT
    assert bench.waits.waiting == WAITERS_MAX
    assert counted(await asyncio.gather(*waiting)) == (0, WAITERS_MAX)


async def test_a_client_that_disconnects_makes_room() -> None:
    bench = LookupBench()
    crowd = await bench.waiting(CROWD, WAITERS_MAX)
    assert await bench.find(CROWD) is NO_ROOM_TO_WAIT
    crowd[0].cancel()
    await settle()
    [late] = await bench.waiting(CROWD, 1)
    assert not late.done()
    for task in crowd:
        task.cancel()
    await asyncio.gather(late, *crowd, return_exceptions=True)
    assert bench.waits.waiting == 0


async def test_a_disconnected_request_that_is_displaced_at_the_same_time_counts_once() -> None:
    bench = LookupBench()
    crowd = await bench.waiting(CROWD, WAITERS_MAX)
    crowd[-1].cancel()
    await bench.waiting(NEW_PODS[0], 1)
    assert bench.waits.waiting == WAITERS_MAX
    assert crowd[-1].cancelled()


async def test_a_limited_number_of_addresses_without_a_waiting_request_is_remembered() -> None:
    bench = LookupBench()
    for number in range(2 * REMEMBERED_MAX):
        [task] = await bench.waiting(f"10.1.{number // 256}.{number % 256}", 1)
        task.cancel()
        await settle()
    assert len(bench.waits._remembered) == REMEMBERED_MAX
    await asyncio.sleep(6.0)
    for number in range(2 * REMEMBERED_MAX):
        [task] = await bench.waiting(f"10.2.{number // 256}.{number % 256}", 1)
        task.cancel()
        await settle()
    assert len(bench.waits._remembered) == REMEMBERED_MAX


def test_the_limit_of_8_mib_is_more_than_the_connections_of_one_address() -> None:
    assert WAITING_BYTES == 8 << 20
    assert max(PLACES_PER_POD) < WAITERS_MAX
