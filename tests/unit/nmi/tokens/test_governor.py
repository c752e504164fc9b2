"""The rate, the concurrency and the order of the node's calls to IMDS. Excluded: the content of the calls."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from nmi.tokens.fair_queue import Permit, Waiters
from nmi.tokens.governor import CongestedError, Governor
from podidentity.azure.errors import Paused, Throttled
from tests.support.virtual_time import now, settle

CALL_SECONDS = 0.01


class Calls:
    """Calls through one governor, and when each began."""

    def __init__(self, **limits: Any) -> None:
        """*limits* as of Governor."""
        self.governor = Governor(**limits)
        self.begun: list[tuple[float, str]] = []
        self.release = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def order(self) -> list[str]:
        return [pod for _, pod in self.begun]

    async def brief(self, pod: str) -> None:
        async with self.governor.permit(pod):
            self.begun.append((now(), pod))
            await asyncio.sleep(CALL_SECONDS)

    async def hold(self, pod: str) -> None:
        async with self.governor.permit(pod):
            self.begun.append((now(), pod))
            await self.release.wait()

    def start(self, *calls: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        started = [asyncio.create_task(call) for call in calls]
        self.tasks += started
        return started

    async def end(self, *, cancel: bool = False) -> None:
        """End all calls. None of them holds a permit, or waits, after it."""
        self.release.set()
        for task in self.tasks if cancel else []:
            task.cancel()
        await asyncio.gather(*(task for task in self.tasks if not task.cancelled()), return_exceptions=cancel)
        assert (self.governor.in_flight, self.governor.waiting) == (0, 0)


async def busy(**limits: Any) -> Calls:
    """Return calls of which the first ones, of other pods, hold all permits."""
    calls = Calls(**limits)
    calls.start(*(calls.hold(f"ns/holder-{number}") for number in range(limits.get("at_once", 5))))
    await asyncio.sleep(1.0)
    return calls


async def shared(calls: Calls, waiters: Waiters) -> tuple[Permit, "asyncio.Task[Any]"]:
    """Return a call that several pods wait for."""
    permit = calls.governor.permit(waiters)
    entered = asyncio.create_task(permit.__aenter__())
    await settle()
    return permit, entered


async def test_at_most_twenty_calls_start_per_second() -> None:
    calls = Calls()
    await asyncio.gather(*(calls.brief("ns/a") for _ in range(60)))
    times = [when for when, _ in calls.begun]
    assert len(times) == 60
    for start in times:
        assert sum(start <= when < start + 1.0 for when in times) <= 20
    assert times[-1] - times[0] < 3.0
    assert times[3] - times[0] < 0.02
    assert all(0.03 < later - earlier < 0.06 for earlier, later in pairwise(times[4:20])), "at even intervals"


@pytest.mark.parametrize(("pods", "most"), [(["ns/a"], 3), (["ns/a", "ns/b"], 4)], ids=["one", "two"])
async def test_one_pod_or_two_pods_never_have_every_permit(pods: list[str], most: int) -> None:
    calls = Calls()
    for pod in pods:
        calls.start(*(calls.hold(pod) for _ in range(20)))
        await asyncio.sleep(1.0)
    assert calls.governor.in_flight == most
    calls.start(calls.hold("ns/neighbour"))
    await asyncio.sleep(0.1)
    assert calls.order[-1] == "ns/neighbour"
    await calls.end()


@pytest.mark.parametrize("arrival", [0.0, 0.05, 0.5, 0.85, 0.95, 1.06, 3.3, 10.0])
@pytest.mark.parametrize("call_seconds", [0.002, 0.1])
async def test_a_new_pod_waits_less_than_a_third_of_a_second_behind_a_flood(
    arrival: float, call_seconds: float
) -> None:
    governor = Governor()

    async def flood() -> None:
        async with governor.permit("ns/greedy"):
            await asyncio.sleep(call_seconds)

    async def keep_flooding() -> None:
        while True:
            await asyncio.gather(*(flood() for _ in range(64)), return_exceptions=True)

    flooding = asyncio.create_task(keep_flooding())
    await asyncio.sleep(arrival)
    before = now()
    async with governor.permit("ns/newcomer"):
        assert now() - before < 0.3
    flooding.cancel()


async def test_the_pod_that_was_served_least_recently_is_next() -> None:
    calls = Calls(at_once=1)
    await calls.brief("ns/earlier")
    await asyncio.gather(*(calls.brief("ns/flooding") for _ in range(3)))
    pods = ("ns/flooding", "ns/flooding", "ns/earlier", "ns/new", "ns/newer")
    await asyncio.gather(calls.brief("ns/holder"), *(calls.brief(pod) for pod in pods))
    assert calls.order[5:] == ["ns/new", "ns/newer", "ns/earlier", "ns/flooding", "ns/flooding"]


# Cancelled calls.


async def test_a_cancelled_waiter_leaves_the_queue_to_the_others() -> None:
    calls = Calls(at_once=1)
    _, second, _ = calls.start(*(calls.hold(f"ns/{name}") for name in "abc"))
    await settle()
    second.cancel()
    await settle()
    assert calls.governor.waiting == 1
    await calls.end()
    assert calls.order == ["ns/a", "ns/c"]


async def test_a_waiter_cancelled_at_the_moment_of_its_grant_releases_the_permit() -> None:
    calls = Calls(at_once=1)
    first, second = calls.start(calls.hold("ns/a"), calls.hold("ns/b"))
    await settle()
    calls.release.set()
    while calls.governor.waiting:
        await asyncio.sleep(0)
    second.cancel()
    await settle()
    assert second.cancelled()
    await first
    assert calls.governor.in_flight == 0
    await calls.brief("ns/c")


async def test_a_cancelled_waiter_that_has_not_run_yet_is_skipped() -> None:
    calls = Calls(at_once=1)
    _, second, _ = calls.start(*(calls.hold(f"ns/{name}") for name in "abc"))
    await settle()
    second.cancel()
    calls.governor.finish("ns/a")  # the first call ends before the cancelled waiter has run
    await settle()
    assert calls.order == ["ns/a", "ns/c"]
    assert calls.governor.waiting == 0
    for task in calls.tasks:
        task.cancel()


# Pauses.


@pytest.mark.parametrize(("retry_after", "pause"), [(7.0, 7.0), (None, 1.0), (86400.0, 30.0)])
async def test_a_429_pauses_all_calls_for_a_bounded_time(retry_after: float | None, pause: float) -> None:
    governor = Governor()
    started = now()
    with pytest.raises(Throttled):
        async with governor.token_permit("ns/a"):
            raise Throttled("busy", status=429, retry_after=retry_after)
    await asyncio.sleep(pause - 1.0)
    async with governor.token_permit("ns/b"):
        assert now() - started == pytest.approx(pause)


async def test_a_long_pause_is_reported_immediately_and_exactly() -> None:
    governor = Governor()
    governor.pause(25.0)
    await asyncio.sleep(5.0)
    before = now()
    with pytest.raises(Throttled) as throttled:
        async with governor.token_permit("ns/a"):
            pass
    with pytest.raises(CongestedError) as congested:
        async with governor.permit("ns/a"):
            pass
    assert now() == before
    assert throttled.value.status == 429
    assert throttled.value.retry_after == pytest.approx(20.0)
    assert congested.value.retry_after == pytest.approx(20.0)
    await asyncio.sleep(11.0)
    async with governor.token_permit("ns/a"):
        assert now() - before == pytest.approx(20.0)


async def test_a_pause_longer_than_the_callers_time_is_reported_immediately() -> None:
    governor = Governor()
    async with governor.token_permit("ns/a", patience=-0.1):
        assert governor.pause_left == 0.0, "an expired caller gets no Retry-After that IMDS did not send"
    governor.pause(6.0)
    with pytest.raises(Throttled) as throttled:
        async with governor.token_permit("ns/a", patience=3.0):
            pass
    assert throttled.value.retry_after == pytest.approx(6.0)
    async with governor.token_permit("ns/b", patience=7.0):
        assert governor.pause_left == 0.0


async def test_a_long_pause_ends_the_waits_in_progress() -> None:
    calls = await busy(at_once=1)

    async def token_call() -> None:
        async with calls.governor.token_permit("ns/b"):
            pass

    waiters = [asyncio.create_task(token_call()), asyncio.create_task(calls.brief("ns/c"))]
    await settle()
    calls.governor.pause(9.0)
    await settle()
    assert calls.governor.waiting == 2
    calls.governor.pause(20.0)
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(result) for result in results] == [Paused, CongestedError]
    assert (calls.governor.waiting, calls.governor.in_flight) == (0, 1)
    await calls.end()


# Full queues.


@pytest.mark.parametrize(
    ("fill", "most", "refused", "accepted"),
    [
        (lambda _n: "ns/greedy", 64, "ns/greedy", "ns/neighbour"),
        (lambda n: f"ns/{n}", 1024, "ns/one-more", None),
    ],
    ids=["one-pod's-places", "all-places"],
)
async def test_a_full_queue_refuses_immediately(
    fill: Callable[[int], str], most: int, refused: str, accepted: str | None
) -> None:
    calls = await busy()
    calls.start(*(calls.hold(fill(n)) for n in range(most)))
    await settle()
    with pytest.raises(CongestedError) as congested:
        await calls.brief(refused)
    assert congested.value.retry_after >= 1.0
    assert calls.governor.refused == 1
    if accepted is not None:
        calls.start(calls.hold(accepted))
        await settle()
        assert calls.governor.waiting == most + 1
    await calls.end(cancel=True)


async def test_a_full_queue_in_total_refuses_the_last_of_the_longest_queue_in_favour_of_a_shorter_one() -> None:
    calls = await busy(waiters_max=8)
    greedy = calls.start(*(calls.hold(f"ns/greedy-{n % 2}") for n in range(8)))
    await settle()
    calls.start(calls.hold("ns/neighbour"))
    await settle()
    assert (calls.governor.waiting, calls.governor.refused) == (8, 1)
    (refused,) = (task for task in greedy if task.done())
    assert greedy.index(refused) >= 6, "the last call of one of the two longest queues"
    assert isinstance(refused.exception(), CongestedError)
    with pytest.raises(CongestedError):
        await calls.brief("ns/greedy-1")
    calls.tasks.remove(refused)
    await calls.end()


@pytest.mark.parametrize("joined", ["ns/greedy-1", "ns/modest"])
async def test_a_shared_call_at_the_end_of_the_longest_queue_protects_it_only_if_a_pod_with_a_short_one_waits(
    joined: str,
) -> None:
    calls = await busy(waiters_max=8)
    greedy = calls.start(*(calls.hold(f"ns/greedy-{n % 2}") for n in range(7)))
    await settle()
    waiters = Waiters("ns/greedy-0")
    _, entered = await shared(calls, waiters)
    calls.tasks.append(entered)
    waiters.join(joined)
    (neighbour,) = calls.start(calls.hold("ns/neighbour"))
    await settle()
    assert (calls.governor.waiting, calls.governor.refused, neighbour.done()) == (8, 1, False)
    assert entered.done() == (joined == "ns/greedy-1")
    assert sum(task.done() for task in greedy) == (joined == "ns/modest")
    await calls.end(cancel=True)


async def test_a_full_queue_of_one_waiting_pod_does_not_refuse_a_shared_call() -> None:
    calls = await busy(at_once=1)
    calls.start(*(calls.brief("ns/full") for _ in range(64)))
    await settle()
    _, entered = await shared(calls, Waiters("ns/full", "ns/other"))
    calls.tasks.append(entered)
    assert calls.governor.waiting == 65
    await calls.end(cancel=True)


# Calls that several pods wait for.


async def test_a_shared_call_is_charged_to_the_pod_whose_turn_comes_first() -> None:
    calls = await busy(at_once=1)
    calls.start(*(calls.brief(pod) for pod in ("ns/a", "ns/a", "ns/b")))
    waiters = Waiters("ns/a")
    permit, entered = await shared(calls, waiters)
    waiters.join("ns/b")
    waiters.join("ns/c")
    assert calls.governor.waiting == 4
    calls.release.set()
    await entered
    assert permit.pod_key == "ns/c"
    waiters.join("ns/d")
    await permit.__aexit__(None, None, None)
    await calls.end()
    assert calls.order == ["ns/holder-0", "ns/a", "ns/b", "ns/a"]
    assert calls.governor.state()["waiting"] == {}


@pytest.mark.parametrize(
    ("leavers", "charged"),
    [(["ns/a"], "ns/b"), (["ns/b"], "ns/a"), (["ns/a", "ns/b"], "ns/b")],
    ids=["the pod that started it", "the pod that joined", "both"],
)
async def test_a_pod_that_leaves_a_shared_call_does_not_change_the_others_turn(
    leavers: list[str], charged: str
) -> None:
    calls = await busy(at_once=1)
    waiters = Waiters("ns/a")
    permit, entered = await shared(calls, waiters)
    waiters.join("ns/b")
    calls.start(calls.brief(charged))
    await settle()
    for leaver in leavers:
        waiters.leave(leaver)
    assert calls.governor.waiting == 2
    calls.release.set()
    await entered
    assert (permit.pod_key, calls.governor.waiting) == (charged, 1)
    await permit.__aexit__(None, None, None)
    await calls.end()


async def test_the_state_names_the_waiting_pods_and_is_bounded() -> None:
    calls = Calls()
    calls.start(*(calls.hold(f"ns/{n}") for n in range(300)))
    await asyncio.sleep(1.0)
    calls.governor.pause(3.0)
    state = calls.governor.state()
    assert (state["waiting_in_all"], state["paused_seconds"]) == (295, 3.0)
    waiting = state["waiting"]
    assert isinstance(waiting, dict)
    assert len(waiting) == 200
    assert waiting["ns/5"] == 1
    json.dumps(state)
    await calls.end(cancel=True)
