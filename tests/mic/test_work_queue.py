"""The work queue: one pass per key, no lost keys, merged bursts, growing pauses after failures."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mic.reconciliation.work_queue import PassResult, WorkQueue

WAIT_SECONDS = 5.0


class Passes:
    """A pass that a test can delay, with a record of its calls."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.running: list[str] = []
        self.results: list[PassResult | Exception] = []
        self.free = asyncio.Event()
        self.free.set()
        self._news = asyncio.Condition()

    async def __call__(self, key: str) -> PassResult:
        assert key not in self.running, "two concurrent passes of one key"
        self.given.append(key)
        self.running.append(key)
        async with self._news:
            self._news.notify_all()
        try:
            await self.free.wait()
        finally:
            self.running.remove(key)
        result = self.results.pop(0) if self.results else PassResult()
        if isinstance(result, Exception):
            raise result
        return result

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS), self._news:
            await self._news.wait_for(holds)


@asynccontextmanager
async def running(queue: WorkQueue, passes: Passes) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(passes))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def quick(*, parallel: int = 10, gather: float = 0.01) -> WorkQueue:
    return WorkQueue(parallel=parallel, gather_seconds=gather, gather_most_seconds=gather * 3)


async def test_a_burst_of_events_causes_one_run() -> None:
    queue, passes = quick(), Passes()
    async with running(queue, passes):
        for _ in range(50):
            queue.add("a")
        queue.add("b")
        await passes.until(lambda: len(passes.given) == 2)
        queue.later("end", 0.05)
        await passes.until(lambda: "end" in passes.given)
    assert passes.given == ["a", "b", "end"]


async def test_an_event_during_a_run_causes_one_more_run() -> None:
    queue, passes = quick(), Passes()
    passes.free.clear()
    async with running(queue, passes):
        queue.add("a")
        await passes.until(lambda: passes.given == ["a"])
        for _ in range(3):
            queue.add("a")
        passes.free.set()
        await passes.until(lambda: passes.given == ["a", "a"])
        queue.later("end", 0.05)
        await passes.until(lambda: "end" in passes.given)
    assert passes.given == ["a", "a", "end"]


async def test_a_blocked_key_delays_no_other() -> None:
    queue, passes = quick(), Passes()
    passes.free.clear()
    async with running(queue, passes):
        queue.add("slow")
        await passes.until(lambda: passes.given == ["slow"])
        queue.add("fast")
        await passes.until(lambda: passes.given == ["slow", "fast"])


async def test_concurrent_runs_are_limited() -> None:
    queue, passes = quick(parallel=2), Passes()
    passes.free.clear()
    async with running(queue, passes):
        for key in "abcd":
            queue.add(key)
        await passes.until(lambda: len(passes.given) == 2)
        assert len(queue) == 4
        passes.free.set()
        await passes.until(lambda: len(passes.given) == 4)
    assert sorted(passes.given) == list("abcd")


async def test_a_permanently_dirty_key_is_processed() -> None:
    queue, passes = quick(gather=0.02), Passes()
    async with running(queue, passes):
        async with asyncio.timeout(WAIT_SECONDS):
            while not passes.given:
                queue.add("a")
                await asyncio.sleep(0.005)


async def test_a_failed_run_is_retried_and_events_do_not_hasten_it() -> None:
    queue, passes = quick(), Passes()
    passes.results = [PassResult(failed=True)]
    loop = asyncio.get_running_loop()
    async with running(queue, passes):
        began = loop.time()  # not after the failure, because this task may continue later than the queue
        queue.add("a")
        await passes.until(lambda: passes.given == ["a"])
        await asyncio.sleep(0)
        queue.add("a")
        await passes.until(lambda: passes.given == ["a", "a"])
    assert loop.time() - began >= 0.45


async def test_a_run_that_raises_is_retried_and_affects_no_other() -> None:
    queue, passes = quick(), Passes()
    passes.results = [ValueError("a bug")]
    async with running(queue, passes):
        queue.add("a")
        await passes.until(lambda: passes.given == ["a"])
        queue.add("b")
        await passes.until(lambda: passes.given == ["a", "b", "a"])


async def test_a_run_can_request_another_one() -> None:
    queue, passes = quick(), Passes()
    passes.results = [PassResult(again_after=0.01)]
    async with running(queue, passes):
        queue.add("a")
        await passes.until(lambda: passes.given == ["a", "a"])


async def test_an_event_is_processed_before_a_requested_later_run() -> None:
    queue, passes = quick(), Passes()
    async with running(queue, passes):
        queue.later("a", 60.0)
        queue.add("a")
        await passes.until(lambda: passes.given == ["a"])
