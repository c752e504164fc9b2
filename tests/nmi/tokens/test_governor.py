"""How fast, how many at once, and in whose turn this node calls IMDS. Excluded: what the calls say."""

import asyncio
from collections.abc import Callable

import pytest

from nmi.tokens.governor import CongestedError, Governor
from podidentity.azure.errors import Throttled
from tests.nmi.virtual_time import in_virtual_time, now, settle

CALL_SECONDS = 0.01


class Calls:
    """Calls through one governor, and when each began."""

    def __init__(self, governor: Governor) -> None:
        self.governor = governor
        self.begun: list[tuple[float, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.release = asyncio.Event()

    async def brief(self, pod: str) -> None:
        async with self.governor.slot(pod):
            self._began(pod)
            await asyncio.sleep(CALL_SECONDS)
            self.in_flight -= 1

    async def held(self, pod: str) -> None:
        async with self.governor.slot(pod):
            self._began(pod)
            await self.release.wait()
            self.in_flight -= 1

    def _began(self, pod: str) -> None:
        self.begun.append((now(), pod))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)


@in_virtual_time
async def test_no_second_sees_more_than_twenty_calls() -> None:
    calls = Calls(Governor(clock=now))
    await asyncio.gather(*(calls.brief("ns/a") for _ in range(60)))
    times = [when for when, _ in calls.begun]
    assert len(times) == 60
    for start in times:
        assert sum(start <= when < start + 1.0 for when in times) <= 20
    assert times[-1] - times[0] < 3.0


@in_virtual_time
async def test_no_more_than_five_calls_are_in_the_air() -> None:
    calls = Calls(Governor(clock=now))
    tasks = [asyncio.create_task(calls.held("ns/a")) for _ in range(12)]
    await settle()
    assert calls.in_flight == 5
    assert calls.governor.waiting == 7
    calls.release.set()
    await asyncio.gather(*tasks)
    assert calls.most_in_flight == 5
    assert (calls.governor.in_flight, calls.governor.waiting) == (0, 0)


@in_virtual_time
async def test_a_greedy_pod_waits_behind_itself() -> None:
    calls = Calls(Governor(at_once=1, clock=now))
    tasks = [asyncio.create_task(calls.brief("ns/greedy")) for _ in range(50)]
    await settle()
    tasks += [asyncio.create_task(calls.brief(pod)) for pod in ("ns/a", "ns/b")]
    await asyncio.gather(*tasks)
    order = [pod for _, pod in calls.begun]
    assert order.index("ns/a") <= 3
    assert order.index("ns/b") <= 5


@in_virtual_time
async def test_a_cancelled_waiter_leaves_the_queue_to_the_others() -> None:
    calls = Calls(Governor(at_once=1, clock=now))
    first = asyncio.create_task(calls.held("ns/a"))
    second = asyncio.create_task(calls.held("ns/b"))
    third = asyncio.create_task(calls.held("ns/c"))
    await settle()
    second.cancel()
    await settle()
    assert calls.governor.waiting == 1
    calls.release.set()
    await asyncio.gather(first, third)
    assert [pod for _, pod in calls.begun] == ["ns/a", "ns/c"]


@in_virtual_time
async def test_a_waiter_cancelled_in_the_moment_of_its_grant_gives_the_slot_back() -> None:
    governor = Governor(at_once=1, clock=now)
    calls = Calls(governor)
    first = asyncio.create_task(calls.held("ns/a"))
    second = asyncio.create_task(calls.held("ns/b"))
    await settle()
    calls.release.set()
    while governor.waiting:
        await asyncio.sleep(0)
    second.cancel()
    await settle()
    assert second.cancelled()
    await first
    assert governor.in_flight == 0
    await asyncio.wait_for(calls.brief("ns/c"), 5)


@in_virtual_time
async def test_a_waiter_cancelled_but_not_yet_run_is_passed_over() -> None:
    governor = Governor(at_once=1, clock=now)
    calls = Calls(governor)
    first = asyncio.create_task(calls.held("ns/a"))
    second = asyncio.create_task(calls.held("ns/b"))
    third = asyncio.create_task(calls.held("ns/c"))
    await settle()
    second.cancel()
    governor.finish()  # the first call ends before the cancelled waiter has run
    await settle()
    assert [pod for _, pod in calls.begun] == ["ns/a", "ns/c"]
    assert governor.waiting == 0
    first.cancel()
    third.cancel()
    await settle()


@in_virtual_time
async def test_retry_after_pauses_everybody() -> None:
    governor = Governor(clock=now)
    started = now()
    with pytest.raises(Throttled):
        async with governor.slot("ns/a"):
            raise Throttled("busy", status=429, retry_after=7.0)
    async with governor.slot("ns/b"):
        assert now() - started == pytest.approx(7.0)


@in_virtual_time
async def test_a_pause_is_bounded_whatever_was_asked_for() -> None:
    governor = Governor(clock=now)
    started = now()
    governor.pause(86400.0)
    async with governor.slot("ns/a"):
        assert now() - started <= 30.0


Fill = Callable[[int], str]


@pytest.mark.parametrize(
    ("fill", "most", "refused", "accepted"),
    [
        (lambda _n: "ns/greedy", 64, "ns/greedy", "ns/neighbour"),
        (lambda n: f"ns/{n}", 1024, "ns/one-more", None),
    ],
    ids=["one-pod's-places", "all-places"],
)
@in_virtual_time
async def test_a_full_queue_refuses_at_once(fill: Fill, most: int, refused: str, accepted: str | None) -> None:
    governor = Governor(clock=now)
    calls = Calls(governor)
    holders = [asyncio.create_task(calls.held("ns/holder")) for _ in range(5)]
    await settle()
    waiters = [asyncio.create_task(calls.held(fill(n))) for n in range(most)]
    await settle()
    with pytest.raises(CongestedError) as congested:
        await calls.brief(refused)
    assert congested.value.retry_after >= 1.0
    if accepted is not None:
        waiters.append(asyncio.create_task(calls.held(accepted)))
        await settle()
        assert governor.waiting == most + 1
    for task in holders + waiters:
        task.cancel()
    await asyncio.gather(*holders, *waiters, return_exceptions=True)
    assert (governor.in_flight, governor.waiting) == (0, 0)


@in_virtual_time
async def test_a_recharged_slot_waits_on_the_other_pods_account() -> None:
    governor = Governor(at_once=1, clock=now)
    calls = Calls(governor)
    holder = asyncio.create_task(calls.held("ns/holder"))
    await settle()
    slot = governor.slot("ns/a")
    entered = asyncio.create_task(slot.__aenter__())
    await settle()
    slot.recharge("ns/b")
    assert (slot.pod_key, governor.waiting) == ("ns/b", 1)
    calls.release.set()
    await holder
    await entered
    slot.recharge("ns/c")
    assert slot.pod_key == "ns/b"
    await slot.__aexit__(None, None, None)
    assert governor.in_flight == 0
