"""The wait for an address without a known pod: its reads, its end, disconnected clients, and its limited memory."""

import asyncio

import pytest

from _native.index import PodRecord
from nmi.connection_limits import SLOTS_PER_POD
from nmi.identity.lookup_wait import REMEMBERED_MAX, WAITERS_MAX, WAITING_BYTES, LookupWait
from nmi.identity.pod_entry import PodEntry
from nmi.refusal import NO_ROOM_TO_WAIT, Refusal
from tests.support.nmi_objects import ADDRESS, pod
from tests.support.virtual_time import now, settle


class Bench:
    """A lookup wait on a dictionary, and its reads."""

    def __init__(self) -> None:
        self.entries: dict[str, PodEntry] = {}
        self.found_by_read: dict[str, PodEntry] = {}
        self.reads: list[tuple[float, str]] = []
        self.crossed = 0
        """The number of next reads whose responses arrive too late."""
        self.waits = LookupWait(clock=now)

    def record_at(self, address: str) -> PodRecord | None:
        return self.entries[address].record if address in self.entries else None

    async def read(self, address: str) -> bool:
        self.reads.append((now(), address))
        if address in self.found_by_read:
            self.arrive(address, self.found_by_read[address])
        self.crossed -= 1
        return self.crossed >= 0

    def arrive(self, address: str, entry: PodEntry) -> None:
        self.entries[address] = entry
        self.waits.arrived(address)

    async def find(self, address: str = ADDRESS) -> PodEntry | Refusal | None:
        result = await self.waits.find(address, self.record_at, self.read)
        if result is None or isinstance(result, Refusal):
            return result
        assert isinstance(result.owner, PodEntry)
        return result.owner

    async def unknown_after(self) -> float:
        """Return how long a request waits until the response that ADDRESS is unknown."""
        begun = now()
        assert await self.find() is None
        return now() - begun

    async def waiting(self, address: str, requests: int) -> list[asyncio.Task[PodEntry | Refusal | None]]:
        """Return *requests* of *address* that wait."""
        tasks = [asyncio.create_task(self.find(address)) for _ in range(requests)]
        await settle()
        return tasks


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_the_watchs_event_ends_all_waits_for_its_address_without_a_read(bench: Bench) -> None:
    entry = PodEntry(pod())
    waiters = [asyncio.create_task(bench.find()) for _ in range(10)]
    await settle()
    await asyncio.sleep(0.2)
    bench.arrive(ADDRESS, entry)
    assert await asyncio.gather(*waiters) == [entry] * 10
    await asyncio.sleep(1.0)
    assert bench.reads == []
    assert bench.waits.waiting == 0


async def test_after_300_ms_the_address_is_read_once(bench: Bench) -> None:
    entry = PodEntry(pod())
    bench.found_by_read[ADDRESS] = entry
    before = now()
    assert await asyncio.gather(*(bench.find() for _ in range(10))) == [entry] * 10
    assert [(round(when - before, 3), address) for when, address in bench.reads] == [(0.3, ADDRESS)]


async def test_an_unknown_address_is_remembered_for_a_second(bench: Bench) -> None:
    entry = PodEntry(pod())
    assert [await bench.unknown_after(), await bench.unknown_after()] == [5.0, 0.0]
    bench.arrive(ADDRESS, entry)
    before = now()
    assert await bench.find() is entry
    assert now() == before, "a known address is found without a wait"
    del bench.entries[ADDRESS]
    await asyncio.sleep(1.0)
    assert await bench.unknown_after() == 5.0


async def test_at_most_two_reads_are_sent_per_second(bench: Bench) -> None:
    before = now()
    await asyncio.gather(*(bench.find(f"10.0.1.{n}") for n in range(20)))
    times = [when - before for when, _ in bench.reads]
    assert len(times) == 10
    for start in times:
        assert sum(start <= when < start + 1.0 for when in times) <= 2


async def test_a_read_that_is_older_than_an_event_is_repeated_at_the_same_rate(bench: Bench) -> None:
    bench.crossed = 3
    before = now()
    assert await bench.find() is None
    assert [round(when - before, 1) for when, _ in bench.reads] == [0.3, 0.8, 1.3, 1.8]


async def test_a_read_is_cancelled_with_its_last_waiter(bench: Bench) -> None:
    waiter = asyncio.create_task(bench.find())
    await asyncio.sleep(0.1)
    waiter.cancel()
    await asyncio.sleep(1.0)
    assert bench.reads == []
    await bench.waits.aclose()


async def abandoned(bench: Bench, address: str = ADDRESS, after: float = 2.0) -> bool:
    """Return whether a client that disconnects *after* that time does so without a response."""
    try:
        async with asyncio.timeout(after):
            await bench.find(address)
    except TimeoutError:
        return True
    return False


async def test_the_five_seconds_count_from_the_first_request_of_the_address(bench: Bench) -> None:
    assert [await abandoned(bench) for _ in range(2)] == [True, True]
    assert [await bench.unknown_after(), await bench.unknown_after()] == [1.0, 0.0]
    assert bench.waits.unknown_for(ADDRESS) == 1.0


@pytest.mark.parametrize(
    ("pause", "waits"), [(3.5, [0.0]), (40.0, [0.0, 5.0]), (63.0, [5.0])], ids=["soon", "later", "after a minute"]
)
async def test_the_answer_that_no_client_waited_for_is_kept_for_a_minute_and_given_once(
    bench: Bench, pause: float, waits: list[float]
) -> None:
    assert await abandoned(bench)
    await asyncio.sleep(pause)
    assert bench.waits.unknown_for(ADDRESS) == (0.5 if pause == 3.5 else 0.0)
    assert [await bench.unknown_after() for _ in waits] == waits


async def test_a_pod_that_arrives_and_leaves_begins_the_time_again(bench: Bench) -> None:
    assert await abandoned(bench)
    bench.arrive(ADDRESS, PodEntry(pod()))
    del bench.entries[ADDRESS]
    assert await bench.unknown_after() == 5.0


async def test_one_read_is_sent_for_all_attempts_of_an_address(bench: Bench) -> None:
    began = now()
    while await abandoned(bench, after=0.2):
        pass
    assert [round(at - began, 3) for at, _ in bench.reads] == [0.3]


async def test_the_read_of_an_abandoned_attempt_is_sent_for_the_next_one(bench: Bench) -> None:
    entry = PodEntry(pod())
    bench.found_by_read[ADDRESS] = entry
    assert await abandoned(bench, after=0.2)
    await asyncio.sleep(0.5)
    assert bench.reads == []
    before = now()
    assert await bench.find() is entry
    assert now() == before


async def test_abandoned_attempts_do_not_delay_the_read_of_another_address(bench: Bench) -> None:
    entry = PodEntry(pod())
    bench.found_by_read[ADDRESS] = entry
    # Each client disconnects when its read is due but not sent.
    await asyncio.gather(*(abandoned(bench, f"10.0.1.{number}", 0.35) for number in range(100)))
    before = now()
    assert await bench.find() is entry
    assert now() - before <= 0.5


CROWD = "10.0.9.9"
NEW_PODS = [f"10.0.1.{number}" for number in range(6)]


def counted(ended: list[PodEntry | Refusal | None]) -> tuple[int, int]:
    """Return how many requests were displaced, and how many waited until the end."""
    return sum(outcome is NO_ROOM_TO_WAIT for outcome in ended), sum(outcome is None for outcome in ended)


@pytest.mark.parametrize(
    "crowds",
    [{CROWD: WAITERS_MAX}, {CROWD: WAITERS_MAX // 2, "10.0.9.8": WAITERS_MAX // 2}],
    ids=["one address", "two addresses"],
)
async def test_new_pods_are_waited_for_next_to_many_requests_of_unknown_addresses(
    bench: Bench, crowds: dict[str, int]
) -> None:
    entries = {address: PodEntry(pod()) for address in NEW_PODS}
    crowd = [task for address, requests in crowds.items() for task in await bench.waiting(address, requests)]
    new = [task for address in NEW_PODS for task in await bench.waiting(address, 1)]
    assert bench.waits.waiting == WAITERS_MAX
    await asyncio.sleep(0.8)
    for address, entry in entries.items():
        bench.arrive(address, entry)
    assert await asyncio.gather(*new) == list(entries.values())
    assert counted(await asyncio.gather(*crowd)) == (len(new), WAITERS_MAX - len(new))
    assert bench.waits.waiting == 0


async def test_an_address_that_has_its_share_displaces_no_other(bench: Bench) -> None:
    crowd = await bench.waiting(CROWD, WAITERS_MAX // 2)
    second_crowd = await bench.waiting("10.0.9.8", WAITERS_MAX // 2)
    before = now()
    assert await asyncio.gather(*(bench.find(CROWD) for _ in range(100))) == [NO_ROOM_TO_WAIT] * 100
    assert now() == before, "it does not wait for its refusal"
    assert not any(task.done() for task in (*crowd, *second_crowd))
    assert counted(await asyncio.gather(*crowd, *second_crowd)) == (0, WAITERS_MAX)


async def test_of_a_crowded_address_the_newest_request_is_displaced(bench: Bench) -> None:
    crowd = await bench.waiting(CROWD, WAITERS_MAX)
    await bench.waiting(NEW_PODS[0], 1)
    assert [number for number, task in enumerate(crowd) if task.done()] == [WAITERS_MAX - 1]


async def test_with_one_request_of_each_address_none_is_displaced(bench: Bench) -> None:
    waiting = [asyncio.create_task(bench.find(f"10.1.{n // 256}.{n % 256}")) for n in range(WAITERS_MAX)]
    await settle()
    assert await bench.find("10.0.1.1") is NO_ROOM_TO_WAIT
    assert bench.waits.waiting == WAITERS_MAX
    assert counted(await asyncio.gather(*waiting)) == (0, WAITERS_MAX)


async def test_a_client_that_disconnects_makes_room(bench: Bench) -> None:
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


async def test_a_disconnected_request_that_is_displaced_at_the_same_time_counts_once(bench: Bench) -> None:
    crowd = await bench.waiting(CROWD, WAITERS_MAX)
    crowd[-1].cancel()
    await bench.waiting(NEW_PODS[0], 1)
    assert bench.waits.waiting == WAITERS_MAX
    assert crowd[-1].cancelled()


async def test_a_limited_number_of_addresses_without_a_waiting_request_is_remembered(bench: Bench) -> None:
    for network in ("10.1", "10.2"):
        for number in range(2 * REMEMBERED_MAX):
            [task] = await bench.waiting(f"{network}.{number // 256}.{number % 256}", 1)
            task.cancel()
            await settle()
        assert len(bench.waits._remembered) == REMEMBERED_MAX
        await asyncio.sleep(6.0)


def test_the_limit_of_8_mib_is_more_than_the_connections_of_one_address() -> None:
    assert WAITING_BYTES == 8 << 20
    assert max(SLOTS_PER_POD) < WAITERS_MAX
