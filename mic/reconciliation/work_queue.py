"""A queue of keys, each worked on by one worker at a time; what arrives meanwhile is merged into one more turn.

It knows nothing of what the keys mean. Nothing is lost: a key that is added is worked on after that, once or more.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final, NoReturn

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.1
"""How long a key must have been quiet before its turn: pods of one rollout come milliseconds apart, and each update
of a host takes seconds."""
GATHER_MOST_SECONDS: Final = 0.4
"""How long a key that is never quiet waits at most: a pod's wait stays within its host's own operation + 0.5 s."""

RETRY_FIRST_SECONDS: Final = 0.5
RETRY_MOST_SECONDS: Final = 10.0
"""Also the longest that a revocation waits behind an API server that refused the last write."""

PARALLEL: Final = 256
"""Turns at once. Most of a turn is waiting for Azure, so this bounds memory, not work."""

SHOWN_MOST: Final = 100
"""Keys of a kind that /debug/state tells of."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """How a turn ended."""

    again_after: float | None = None
    """Seconds until the key wants another turn by itself; None: only when it is added again."""
    failed: bool = False
    """The turn did not get through: another one after a pause that grows with each failure in a row."""


class WorkQueue:
    """The queue. `add` may be called from anywhere in the loop, also from inside a turn."""

    def __init__(
        self,
        *,
        parallel: int = PARALLEL,
        gather_seconds: float = GATHER_SECONDS,
        gather_most_seconds: float = GATHER_MOST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """*on_fault* is called when a turn has raised an exception."""
        self._on_fault = on_fault
        self._parallel = parallel
        self._gather_seconds = gather_seconds
        self._gather_most_seconds = gather_most_seconds
        self._clock = clock
        self._due: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._running: set[str] = set()
        self._again: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait for a turn or have one."""
        return len(self._due.keys() | self._running)

    def state(self) -> dict[str, object]:
        """For /debug/state: how many wait, who has a turn, whose turns failed and how often in a row."""
        return {
            "waiting": len(self._due),
            "running": sorted(self._running)[:SHOWN_MOST],
            "failing": dict(islice(self._failures.items(), SHOWN_MOST)),
        }

    def add(self, key: str) -> None:
        """Something about *key* changed: give it a turn, soon, together with what else arrives until then."""
        now = self._clock()
        if key in self._running:
            self._again[key] = min(now, self._again.get(key, now))
            return
        gathering = key in self._first
        first = self._first.setdefault(key, now)
        when = max(min(now + self._gather_seconds, first + self._gather_most_seconds), self._not_before.get(key, now))
        if gathering or self._due.get(key, when) >= when:
            self._set(key, when)

    def later(self, key: str, seconds: float) -> None:
        """Give *key* a turn in *seconds*, or sooner if it is due sooner."""
        now = self._clock()
        when = max(now + seconds, self._not_before.get(key, now))
        if key in self._running:
            self._again[key] = min(when, self._again.get(key, when))
        elif self._due.get(key, when) >= when:
            self._set(key, when)

    def _set(self, key: str, when: float) -> None:
        self._due[key] = when
        heapq.heappush(self._heap, (when, key))
        self._news.set()

    async def run(self, turn: Callable[[str], Awaitable[PassResult]]) -> NoReturn:
        """Give turns until cancelled. An exception out of *turn* is logged and counts as a failed turn."""
        async with asyncio.TaskGroup() as turns:
            while True:
                pause = self._start_due(turns, turn)
                self._news.clear()
                try:
                    async with asyncio.timeout(pause):
                        await self._news.wait()
                except TimeoutError:
                    continue

    def _start_due(self, turns: asyncio.TaskGroup, turn: Callable[[str], Awaitable[PassResult]]) -> float | None:
        """Start what is due; seconds until the next is, None where only news can say."""
        now = self._clock()
        while self._heap:
            when, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)  # put off or started since
                continue
            if when > now:
                return when - now
            if len(self._running) >= self._parallel:
                return None
            heapq.heappop(self._heap)
            del self._due[key]
            self._first.pop(key, None)
            self._running.add(key)
            turns.create_task(self._turn(key, turn), name=f"round for {key}")
        return None

    async def _turn(self, key: str, turn: Callable[[str], Awaitable[PassResult]]) -> None:
        try:
            done = await turn(key)
        except Exception:
            self._on_fault()
            log.exception("a round failed unexpectedly and is repeated; report this as a bug", extra={"vm": key})
            done = PassResult(failed=True)
        finally:
            self._running.discard(key)
            self._news.set()
        now = self._clock()
        again = self._again.pop(key, None)
        if done.failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(RETRY_FIRST_SECONDS * 2.0 ** min(failures - 1, 16), RETRY_MOST_SECONDS)
            self._not_before[key] = now + pause
            self.later(key, pause)
            return
        self._failures.pop(key, None)
        self._not_before.pop(key, None)
        if again is not None:
            self.later(key, again - now)
        if done.again_after is not None:
            self.later(key, done.again_after)
