"""The work queue and the controller: one pass per key, no lost keys, merged bursts, growing pauses after failures, and
all hosts once in an interval; and the write limiter: the rate, the burst, and the order of writes by host and urgency.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mic.cluster.view import ClusterView
from mic.reconciliation.controller import Controller
from mic.reconciliation.work_queue import PARALLEL, PassResult, WorkQueue
from mic.reconciliation.write_limiter import LEAST_SHARE, Urgency, WriteLimiter
from mic.startup.settings import MicSettings
from podidentity.telemetry.token_bucket import TokenBucket
from tests.support.objects import binding, identity, identity_id, node, pod, vm_id
from tests.support.virtual_time import now


class Passes:
    """Passes that take *seconds*, with a record of their keys and times."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.given: list[str] = []
        self.times: list[float] = []
        self.running: list[str] = []
        self.results: list[PassResult | Exception] = []
        self._began = now()

    async def __call__(self, key: str) -> PassResult:
        assert key not in self.running, "two concurrent passes of one key"
        self.given.append(key)
        self.times.append(round(now() - self._began, 3))
        self.running.append(key)
        await asyncio.sleep(self.seconds)
        self.running.remove(key)
        result = self.results.pop(0) if self.results else PassResult()
        if isinstance(result, Exception):
            raise result
        return result


@asynccontextmanager
async def running(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def quick(parallel: int = PARALLEL) -> WorkQueue:
    return WorkQueue(parallel=parallel, gather_seconds=0.01, gather_most_seconds=0.03)


async def test_a_burst_of_events_causes_one_pass() -> None:
    queue, passes = quick(), Passes()
    async with running(queue.run(passes)):
        for _ in range(50):
            queue.add("a")
        queue.add("b")
        await asyncio.sleep(10.0)
    assert passes.given == ["a", "b"]


async def test_events_during_a_pass_cause_one_more_pass() -> None:
    queue, passes = quick(), Passes(seconds=1.0)
    async with running(queue.run(passes)):
        queue.add("a")
        await asyncio.sleep(0.5)
        for _ in range(3):
            queue.add("a")
        await asyncio.sleep(10.0)
    assert passes.given == ["a", "a"]


async def test_a_slow_key_delays_no_other() -> None:
    queue, passes = quick(), Passes(seconds=100.0)
    async with running(queue.run(passes)):
        queue.add("slow")
        await asyncio.sleep(1.0)
        queue.add("fast")
        await asyncio.sleep(1.0)
        assert passes.running == ["slow", "fast"]


async def test_concurrent_passes_are_limited() -> None:
    queue, passes = quick(parallel=2), Passes(seconds=1.0)
    async with running(queue.run(passes)):
        for key in "abcd":
            queue.add(key)
        await asyncio.sleep(0.5)
        assert len(passes.running) == 2
        assert len(queue) == 4
        await asyncio.sleep(2.0)
    assert sorted(passes.given) == list("abcd")


async def test_a_permanently_dirty_key_is_processed() -> None:
    queue, passes = quick(), Passes()
    async with running(queue.run(passes)):
        for _ in range(10):
            queue.add("a")
            await asyncio.sleep(0.004)
    assert passes.times == [0.03]


async def test_failed_passes_are_repeated_after_growing_pauses_that_events_do_not_shorten() -> None:
    queue, passes = quick(), Passes()
    passes.results = [PassResult(failed=True), PassResult(failed=True)]
    async with running(queue.run(passes)):
        queue.add("a")
        await asyncio.sleep(0.2)
        queue.add("a")
        await asyncio.sleep(10.0)
    first, second, third = passes.times
    assert second - first == pytest.approx(0.5)
    assert third - second == pytest.approx(1.0)


async def test_a_pass_that_raises_is_counted_and_repeated_and_affects_no_other() -> None:
    faults: list[None] = []
    queue, passes = WorkQueue(on_fault=lambda: faults.append(None)), Passes()
    passes.results = [ValueError("a bug")]
    async with running(queue.run(passes)):
        queue.add("bad")
        queue.add("good")
        await asyncio.sleep(0.2)
        assert queue.state()["failing"] == {"bad": 1}
        await asyncio.sleep(10.0)
    assert passes.given == ["bad", "good", "bad"]
    assert len(faults) == 1


async def test_a_pass_can_request_another_one() -> None:
    queue, passes = quick(), Passes()
    passes.results = [PassResult(again_after=7.0)]
    async with running(queue.run(passes)):
        queue.add("a")
        await asyncio.sleep(10.0)
    assert passes.times == [0.01, 7.01]


async def test_an_event_is_processed_before_a_requested_later_pass() -> None:
    queue, passes = quick(), Passes()
    async with running(queue.run(passes)):
        queue.later("a", 60.0)
        queue.add("a")
        await asyncio.sleep(1.0)
    assert passes.given == ["a"]


async def test_events_do_not_postpone_a_requested_pass() -> None:
    queue, passes = quick(), Passes()
    async with running(queue.run(passes)):
        queue.later("a", 0.05)
        await asyncio.sleep(0.045)
        queue.add("a")
        await asyncio.sleep(0.003)
        queue.add("a")
        await asyncio.sleep(1.0)
    assert passes.times == [0.05]


async def test_a_pass_requested_while_events_are_gathered_is_not_postponed() -> None:
    queue, passes = quick(), Passes()
    async with running(queue.run(passes)):
        queue.add("a")
        queue.later("a", 0.015)
        await asyncio.sleep(0.008)
        queue.add("a")
        await asyncio.sleep(1.0)
    assert passes.times == [0.015]


async def test_events_do_not_postpone_the_repetition_of_a_failed_pass() -> None:
    queue, passes = quick(), Passes()
    passes.results = [PassResult(failed=True)]
    async with running(queue.run(passes)):
        queue.later("a", 0.0)
        await asyncio.sleep(0.495)
        queue.add("a")
        await asyncio.sleep(0.003)
        queue.add("a")
        await asyncio.sleep(1.0)
    assert passes.times == [0.0, 0.5]


async def test_a_key_that_waits_for_a_free_slot_keeps_its_place_while_it_changes() -> None:
    queue, passes = quick(parallel=1), Passes(seconds=1.0)
    async with running(queue.run(passes)):
        for key in ("busy", "a", "b", "a"):
            queue.add(key)
            await asyncio.sleep(0.1)
        await asyncio.sleep(10.0)
    assert passes.given == ["busy", "a", "b"]


async def test_a_key_that_changes_in_its_own_pass_comes_after_those_that_wait() -> None:
    queue, passes = quick(parallel=1), Passes(seconds=1.0)
    async with running(queue.run(passes)):
        for key in ("a", "a", "b"):
            await asyncio.sleep(0.1)
            queue.add(key)
        await asyncio.sleep(10.0)
    assert passes.given == ["a", "b", "a"]


class HostPasses:
    """The passes of hosts. Implements the controller's protocol."""

    def __init__(self) -> None:
        self.reconcile, self.revoke, self.assign = Passes(), Passes(), Passes()
        self.looks: list[str] = []
        self.refused: dict[str, list[str]] = {}

    def request_read(self, key: str) -> None:
        self.looks.append(key)

    def retry_identity(self, identity_key: str) -> list[str]:
        return self.refused.pop(identity_key, [])


def controlled(look_seconds: float = 600.0, resync_seconds: float = 600.0) -> tuple[Controller, HostPasses]:
    """Return a controller of the hosts n0 and n1 with a bound pod each, and of an idle host."""
    view, passes = ClusterView(), HostPasses()
    view.identities.upserted(None, identity())
    view.bindings.upserted(None, binding())
    for name in ("n0", "n1"):
        view.nodes.upserted(None, node(name))
        view.pods.upserted(None, pod(f"on-{name}", node=name))
    view.nodes.upserted(None, node("idle"))
    return Controller(view, passes, look_seconds=look_seconds, resync_seconds=resync_seconds), passes


HOSTS = [vm_id("n0").lower(), vm_id("n1").lower()]


async def test_an_event_causes_a_pass_of_its_host_alone_and_the_writes_next_to_it() -> None:
    """A revocation does not wait for a pass that waits for Azure."""
    controller, passes = controlled()
    passes.reconcile.seconds = 600.0
    states = [controller.running]
    async with running(controller.run()):
        controller.dirty(HOSTS[0])
        await asyncio.sleep(1.0)
        controller.dirty(HOSTS[0])
        await asyncio.sleep(1.0)
        states.append(controller.running)
    assert [*states, controller.running] == [False, True, False]
    assert passes.reconcile.given == HOSTS[:1]
    assert passes.revoke.given == passes.assign.given == HOSTS[:1] * 2
    assert passes.looks == []


async def test_every_host_with_identities_is_compared_with_azure_once_per_interval() -> None:
    controller, passes = controlled(look_seconds=180.0)
    async with running(controller.run()):
        await asyncio.sleep(359.0)
    assert passes.looks == passes.reconcile.given == HOSTS * 2
    assert passes.reconcile.times == pytest.approx([60.0, 120.0, 240.0, 300.0])


async def test_a_resync_causes_a_pass_for_each_host_that_is_out_of_sync() -> None:
    controller, passes = controlled(resync_seconds=60.0)
    async with running(controller.run()):
        await asyncio.sleep(150.0)
    assert passes.reconcile.given == HOSTS * 2
    assert passes.looks == []


async def test_a_changed_identity_causes_a_pass_where_it_was_refused() -> None:
    controller, passes = controlled()
    passes.refused[identity_id("demo").lower()] = ["host"]
    async with running(controller.run()):
        controller.identity_changed(identity())
        await asyncio.sleep(1.0)
    assert passes.reconcile.given == ["host"]


BUSY = 40
"""Requests of one host that wait before those of others."""


class Writes:
    """Requests that the test sends one by one, and their order."""

    def __init__(self, limiter: WriteLimiter) -> None:
        self._limiter = limiter
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, host: str, urgency: Urgency = Urgency.ASSIGN) -> asyncio.Task[None]:
        task = asyncio.create_task(self._one(host, urgency))
        self.tasks.append(task)
        return task

    async def _one(self, host: str, urgency: Urgency) -> None:
        async with self._limiter.permit(urgency, host):
            self.order.append(host)
            await asyncio.sleep(0)


def unlimited(in_flight: int = 1) -> WriteLimiter:
    return WriteLimiter(in_flight=in_flight, per_second=1000.0, burst=100_000.0)


async def test_a_single_write_does_not_wait_behind_another_hosts_rollout() -> None:
    writes = Writes(unlimited())
    for _ in range(BUSY):
        writes.ask("large set")
    await asyncio.sleep(0)
    writes.ask("small vm")
    await asyncio.gather(*writes.tasks)
    assert writes.order.index("small vm") <= 3
    assert len(writes.order) == BUSY + 1


async def test_revocations_are_sent_before_all_other_writes() -> None:
    writes = Writes(unlimited())
    for _ in range(5):
        writes.ask("tidy", Urgency.TIDY)
        writes.ask("assign", Urgency.ASSIGN)
    await asyncio.sleep(0)
    for _ in range(3):
        writes.ask("revoke", Urgency.REVOKE)
    await asyncio.gather(*writes.tasks)
    assert writes.order[0] == "tidy", "a granted permit is not revoked"
    assert writes.order[2:5] == ["revoke"] * 3
    assert writes.order[5:9] == ["assign"] * 4


async def test_the_lowest_priority_gets_its_share_under_load() -> None:
    writes = Writes(unlimited())
    for _ in range(3 * LEAST_SHARE):
        writes.ask("revoke", Urgency.REVOKE)
    await asyncio.sleep(0)
    for _ in range(2):
        writes.ask("tidy", Urgency.TIDY)
    await asyncio.gather(*writes.tasks)
    assert [at for at, host in enumerate(writes.order) if host == "tidy"] == [LEAST_SHARE - 1, 2 * LEAST_SHARE - 1]


async def test_concurrent_writes_are_limited() -> None:
    limiter, most, now = unlimited(in_flight=3), 0, 0

    async def one(host: str) -> None:
        nonlocal most, now
        async with limiter.permit(Urgency.ASSIGN, host):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1

    await asyncio.gather(*(one(f"host {number % 4}") for number in range(20)))
    assert most == 3


async def test_a_burst_is_sent_immediately_and_the_others_at_the_rate() -> None:
    writes = Writes(WriteLimiter(in_flight=100, per_second=50.0, burst=30.0))
    for number in range(40):
        writes.ask(f"host {number}")
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(writes.order) == 30
    await asyncio.sleep(0.11)  # five and a half more
    assert len(writes.order) == 35
    await asyncio.gather(*writes.tasks)


async def test_a_cancelled_waiter_leaves_its_turn_to_others() -> None:
    writes = Writes(unlimited())
    first, given_up, last = (writes.ask(host) for host in ("first", "given up", "last"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(first, last)
    assert writes.order == ["first", "last"]


async def test_a_waiter_cancelled_when_it_is_granted_passes_the_grant_on() -> None:
    limiter = unlimited()
    writes = Writes(limiter)
    async with limiter.permit(Urgency.ASSIGN, "holder"):
        waiting = writes.ask("cancelled")
        await asyncio.sleep(0)
    waiting.cancel()  # it has its permit, and has not continued yet
    async with asyncio.timeout(5.0), limiter.permit(Urgency.ASSIGN, "next"):
        writes.order.append("next")
    assert writes.order == ["next"]
    await asyncio.gather(waiting, return_exceptions=True)


def test_the_default_rate_permits_the_writes_of_two_thousand_pods_soon_after_azures_operation() -> None:
    settings, now = MicSettings(namespace="default"), 0.0
    bucket = TokenBucket(settings.writes_per_second, settings.writes_at_once, lambda: now)
    for _ in range(400):  # created before Azure has their identities
        assert bucket.take()
    now = 5.4
    for _ in range(2000):  # the last write of each object
        while not bucket.take():
            now += bucket.seconds()
    assert now <= 8.01
