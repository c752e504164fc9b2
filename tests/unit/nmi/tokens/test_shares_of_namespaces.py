"""The parts of namespaces and pods: of a bounded table, and of the limit of concurrent calls.

Excluded: the content of the calls.
"""

import asyncio
import random
from collections import Counter
from typing import Final

import pytest

from nmi.tokens.fair_queue import Charged, GroupLimiter, Waiters
from nmi.tokens.namespace_table import NamespaceTable
from tests.support.virtual_time import settle


class Calls:
    """Calls through one limiter that hang until *release* is set, by pod."""

    def __init__(self, in_total: int, per_group: int) -> None:
        self.limiter = GroupLimiter(in_total, per_group)
        self.release = asyncio.Event()
        self.in_flight: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, group: str, pod: str, charged: Charged = "") -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(self._hang(group, pod, charged or pod)))
        return self._tasks[-1]

    async def end(self) -> None:
        self.release.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert (len(self.limiter), self.limiter._groups) == (0, {})
        assert (self.limiter._total.in_flight, self.limiter._total.waiting) == (0, 0)

    async def _hang(self, group: str, pod: str, charged: Charged) -> None:
        async with self.limiter.acquire(group, charged):
            self.in_flight[pod] += 1
            await self.release.wait()


async def test_the_limiter_counts_in_total_and_per_group_and_drops_empty_groups() -> None:
    calls = Calls(3, 2)
    tasks = [calls.start(group, f"{group}/{number}") for number in range(5) for group in "ab"]
    assert len(calls.limiter) == 0
    await settle()
    assert len(calls.limiter) == 10
    assert sorted(Counter(pod[0] for pod in calls.in_flight).values()) == [1, 2]
    for task in tasks[::4]:
        task.cancel()
    await calls.end()


async def test_calls_that_begin_after_the_end_of_others_share_the_limit_of_their_group() -> None:
    calls = Calls(32, 2)
    tasks = [calls.start("ns", f"ns/{number}") for number in range(2)]
    await settle()
    tasks[0].cancel()
    await settle()
    for number in range(2, 6):
        calls.start("ns", f"ns/{number}")
    await settle()
    assert calls.in_flight == {"ns/0": 1, "ns/1": 1, "ns/2": 1}
    await calls.end()


async def test_two_pods_whose_calls_hang_leave_a_slot_of_the_group_to_a_third() -> None:
    calls = Calls(32, 8)
    for pod in ("ns/a", "ns/b"):
        for _ in range(20):
            calls.start("ns", pod)
        await settle()
    assert calls.in_flight == {"ns/a": 4, "ns/b": 2}
    calls.start("ns", "ns/c")
    await settle()
    assert calls.in_flight["ns/c"] == 1
    await calls.end()


async def test_two_pods_whose_calls_hang_in_many_groups_leave_a_slot_of_the_total_to_a_third() -> None:
    calls = Calls(32, 8)
    for pod in ("evil/a", "evil/b"):
        for group in range(20):
            for _ in range(8):
                calls.start(f"evil-{group}", pod)
        await settle()
    calls.start("ns", "ns/c")
    await settle()
    assert calls.in_flight["ns/c"] == 1
    assert calls.in_flight.total() < 32
    await calls.end()


async def test_a_pod_that_joins_waits_in_the_queues_of_all_calls_of_the_fetch() -> None:
    calls, waiters = Calls(32, 1), Waiters("ns/busy")
    for _ in range(10):
        calls.start("ns", "ns/busy")
    await settle()
    for _ in range(2):
        calls.start("ns", "of the fetch", waiters)
    await settle()
    waiters.join("ns/joined")
    waiters.leave("ns/busy")
    queues = calls.limiter._groups["ns"]._queues
    assert (len(queues["ns/busy"]), len(queues["ns/joined"])) == (9, 2)
    await calls.end()
    assert calls.in_flight["of the fetch"] == 2


LIMIT: Final = 500


class Uses:
    """Times of the last use, as of values that are used without the table. Counts how often the table reads one."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}
        self.reads = 0

    def last_used(self, value: int) -> float:
        self.reads += 1
        return self.times.get(value, 0.0)


def test_the_cost_of_a_new_value_at_the_limit_does_not_grow_with_the_limit() -> None:
    uses, chosen = Uses(), random.Random(29)
    table: NamespaceTable[int, int] = NamespaceTable(LIMIT, last_used=uses.last_used)
    for number in range(10 * LIMIT):
        table.put(number, number, "evil")
        uses.times[chosen.randrange(max(0, number - LIMIT), number + 1)] = float(number)
        table.trim()
    assert len(table) == LIMIT
    assert uses.reads <= 4 * 10 * LIMIT


def test_one_call_looks_at_few_values_although_all_were_used_without_the_table() -> None:
    uses = Uses()
    table: NamespaceTable[int, int] = NamespaceTable(LIMIT, last_used=uses.last_used)
    for number in range(LIMIT + 1):
        table.put(number, number, "evil")
        uses.times[number] = 1.0
    before = uses.reads
    assert table.surplus() is not None
    assert uses.reads - before <= LIMIT // 3


def test_a_value_that_is_used_without_the_table_stays() -> None:
    uses = Uses()
    table: NamespaceTable[int, int] = NamespaceTable(4, last_used=uses.last_used)
    for number in range(50):
        table.put(number, number, "shop")
        uses.times[0] = number
        table.trim()
    assert set(table.view) == {0, 47, 48, 49}


def fill(table: NamespaceTable[int, int], *namespaces: str) -> None:
    for number in range(1_000, 1_100):
        for namespace in namespaces:
            table.put(number, number, namespace)
            table.trim()


@pytest.mark.parametrize("others", [("evil",), ("evil", "bad")], ids=["one", "two"])
@pytest.mark.parametrize("first", [0, 3])
def test_a_value_of_another_namespace_stays_although_greedy_ones_use_it(first: int, others: tuple[str, ...]) -> None:
    table: NamespaceTable[int, int] = NamespaceTable(20)
    for number in range(100, 100 + first):
        table.put(number, number, "evil")
    for number in range(3):
        table.put(number, number, "shop")
    for namespace in others:
        table.use(0, namespace)
    fill(table, *others)
    assert {0, 1, 2} <= set(table.view)


def test_a_new_version_of_a_value_remains_with_those_who_use_it() -> None:
    table: NamespaceTable[int, int] = NamespaceTable(20)
    for number in range(3):
        table.put(number, number, "evil")
    table.use(0, "shop")
    table.put(0, 0, "evil")
    fill(table, "evil")
    assert 0 in table.view
    assert 1 not in table.view


def test_a_value_goes_to_the_namespace_with_the_fewest_of_those_that_use_it() -> None:
    table: NamespaceTable[int, int] = NamespaceTable(20)
    table.put(0, 0, "evil")
    for number in range(1, 9):
        table.put(number, number, "shop")
    for namespace in ("shop", "small"):
        table.use(0, namespace)
    fill(table, "evil")
    for number in range(11, 50):
        table.put(number, number, "shop")
        table.trim()
    assert 0 in table.view
