"""Work queue of keys with one worker per key. Keys added during a pass cause one more pass.

The queue does not interpret the keys and loses none: each added key gets at least one later pass.
"""

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final, NoReturn

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.1
"""Time without a new event before a key's pass: pods of one rollout arrive within milliseconds, and each update of a
host takes seconds."""
GATHER_MOST_SECONDS: Final = 0.4
"""Maximum of that delay: a pod waits at most 0.5 s longer than its host's own operation."""

RETRY_FIRST_SECONDS: Final = 0.5
RETRY_MOST_SECONDS: Final = 10.0
"""Also the longest delay of a revocation after the API server refused a write."""

PARALLEL: Final = 256
"""Passes that run concurrently. Most of a pass is waiting for Azure, so this limits memory, not work."""

SHOWN_MOST: Final = 100
"""Keys per list in /debug/state."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """Result of a pass."""

    again_after: float | None = None
    """Seconds until the next pass; None: only when the key is added again."""
    failed: bool = False
    """The pass failed: it is repeated after a pause that grows with each consecutive failure."""


class WorkQueue:
    """The queue. `add` may be called from anywhere in the loop, also during a pass."""

    def __init__(
        self,
        *,
        parallel: int = PARALLEL,
        gather_seconds: float = GATHER_SECONDS,
        gather_most_seconds: float = GATHER_MOST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """*on_fault* is called after a pass raised an exception."""
        self._on_fault = on_fault
        self._parallel = parallel
        self._gather_seconds = gather_seconds
        self._gather_most_seconds = gather_most_seconds
        self._clock = clock
        self._due: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._running: set[str] = set()
        self._again: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of keys with a waiting or running pass."""
        return len(self._due.keys() | self._running)

    def state(self) -> dict[str, object]:
        """Return the waiting, running and failing keys, for /debug/state."""
        return {
            "waiting": len(self._due),
            "running": sorted(self._running)[:SHOWN_MOST],
            "failing": dict(islice(self._failures.items(), SHOWN_MOST)),
        }

    def add(self, key: str) -> None:
        """Queue a pass for *key*, which changed, together with further changes until then."""
        now = self._clock()
        if key in self._running:
            self._again[key] = min(now, self._again.get(key, now))
            return
        # While events are gathered, each one postpones the pass, up to its latest time.
        self._set(key, now + self._gather_seconds, now + self._gather_most_seconds)

    def later(self, key: str, seconds: float) -> None:
        """Queue a pass for *key* in *seconds*, or earlier if it is due earlier."""
        when = self._clock() + seconds
        if key in self._running:
            self._again[key] = min(when, self._again.get(key, when))
        else:
            self._set(key, min(when, self._due.get(key, when)), when)

    def _set(self, key: str, when: float, latest: float) -> None:
        """Make a pass for *key* due at *when*, but not after *latest*, nor after the latest time of an earlier call."""
        latest = self._latest[key] = min(latest, self._latest.get(key, latest))
        due = max(min(when, latest), self._not_before.get(key, -math.inf))
        if self._due.get(key) != due:
            self._due[key] = due
            # An older entry stays and is skipped later: its removal would search the heap.
            heapq.heappush(self._heap, (due, key))
            self._news.set()

    async def run(self, reconcile: Callable[[str], Awaitable[PassResult]]) -> NoReturn:
        """Run passes until cancelled. An exception from *reconcile* is logged and counts as a failed pass."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                pause = self._start_due(tasks, reconcile)
                # No await since the check above, so that no news is lost.
                self._news.clear()
                try:
                    async with asyncio.timeout(pause):
                        await self._news.wait()
                except TimeoutError:
                    continue

    def _start_due(self, tasks: asyncio.TaskGroup, reconcile: Callable[[str], Awaitable[PassResult]]) -> float | None:
        """Start the passes that are due. Return the seconds until the next one; None if only `add` can cause one."""
        now = self._clock()
        while self._heap:
            when, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)  # postponed or started since
                continue
            if when > now:
                return when - now
            if len(self._running) >= self._parallel:
                return None  # the end of a pass wakes the queue
            heapq.heappop(self._heap)
            del self._due[key]
            del self._latest[key]
            self._running.add(key)
            tasks.create_task(self._run_pass(key, reconcile), name=f"reconcile pass for {key}")
        return None

    async def _run_pass(self, key: str, reconcile: Callable[[str], Awaitable[PassResult]]) -> None:
        try:
            done = await reconcile(key)
        except Exception:
            self._on_fault()
            log.exception(
                "a reconcile pass failed unexpectedly and is repeated; report this as a bug", extra={"vm": key}
            )
            done = PassResult(failed=True)
        finally:
            self._running.discard(key)
            self._news.set()  # a due pass may have waited for a free slot
        now = self._clock()
        again = self._again.pop(key, None)
        if done.failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            # A larger power would overflow a float after a thousand failures.
            pause = min(RETRY_FIRST_SECONDS * 2.0 ** min(failures - 1, 16), RETRY_MOST_SECONDS)
            self._not_before[key] = now + pause  # also for events, which must not shorten the pause
            self.later(key, pause)
            return
        self._failures.pop(key, None)
        self._not_before.pop(key, None)
        if again is not None:
            self.later(key, max(again - now, 0.0))  # after the keys that already wait
        if done.again_after is not None:
            self.later(key, done.again_after)
