"""Concurrency limits with a fair order between pods: of all calls (FairQueue), and of each group too (GroupLimiter).

Permits go to the pod that was served least recently, while it has fewer calls in flight than permits are free: a pod
with a hundred requests delays itself and not its neighbours, and two pods whose calls hang leave a permit to a third. A
call that several pods wait for is in the queue of each, so that the pod with the shortest queue is charged, whichever
pod started it.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

SERVED_MAX: Final = 1024
"""Pods whose last call is remembered for the order. A node runs 250 at most."""


P = TypeVar("P", bound="Permit")


class Waiters:
    """The pods that wait for one fetch: a multiset of pod keys. Each call of the fetch is charged to one of them.

    A pod that joins or leaves changes the queues of the calls that are queued.
    """

    def __init__(self, *pod_keys: str, otherwise: str = "") -> None:
        """*otherwise* is charged without waiters."""
        self._counts = Counter(pod_keys)
        self._otherwise = otherwise
        self.queued: dict[Permit, None] = {}
        """The permits of the fetch that are queued: several if it signs in to several tenants. Set by the permits."""

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return self._counts.total()

    @property
    def pod_keys(self) -> tuple[str, ...]:
        """The pods that may be charged, at least one, in the order in which they joined."""
        return tuple(self._counts) or (self._otherwise,)

    def join(self, pod_key: str) -> None:
        """Add one request of *pod_key*."""
        self._counts[pod_key] += 1
        if self._counts[pod_key] == 1:
            for permit in self.queued:
                permit.join(pod_key)

    def leave(self, pod_key: str) -> None:
        """Remove one request of *pod_key*."""
        self._counts[pod_key] -= 1
        if self._counts[pod_key]:
            return
        del self._counts[pod_key]
        for permit in self.queued:
            permit.leave(pod_key)


Charged = str | Waiters
"""The pod that is charged for a call, or the waiters of a shared call."""


class FairQueue(Generic[P]):
    """Queue of Permits. It has no task: entering or leaving a permit advances the queue."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._queues: dict[str, dict[P, None]] = {}
        """By pod, in order. A permit may be in the queues of several pods."""
        self._waiting = 0
        self._served: OrderedDict[str, int] = OrderedDict()
        """The number of the last call of each pod, in this order."""
        self._calls = 0
        self._in_flight: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def in_flight(self) -> int:
        return sum(self._in_flight.values())

    # Called by permits.

    def enqueue(self, permit: P, pod_keys: Sequence[str]) -> None:
        """Queue *permit* for each of *pod_keys*, at least one."""
        for pod_key in pod_keys:
            self.join(permit, pod_key)
        # A shared call counts once, and a call that every full queue rejected is not queued at all.
        self._waiting += bool(permit.queues)

    def join(self, permit: P, pod_key: str) -> None:
        """Add *permit* to the queue of *pod_key*."""
        self._queues.setdefault(pod_key, {})[permit] = permit.queues[pod_key] = None

    def leave(self, permit: P, pod_key: str) -> None:
        """Remove *permit* from the queue of *pod_key*, in which it is."""
        queue = self._queues[pod_key]
        del queue[permit], permit.queues[pod_key]
        if not queue:
            del self._queues[pod_key]

    def dequeue(self, permit: P) -> None:
        """Remove *permit* from all queues, if it is queued."""
        self._waiting -= bool(permit.queues)
        for pod_key in [*permit.queues]:
            self.leave(permit, pod_key)

    def finish(self, pod_key: str) -> None:
        """Record the end of a call of *pod_key*."""
        self._in_flight[pod_key] -= 1
        if not self._in_flight[pod_key]:
            del self._in_flight[pod_key]
        self.advance()

    def advance(self) -> None:
        """Grant permits in order while the limits allow."""
        # The order matters: `_may_start` of the governor sets a timer, which only a waiting pod needs.
        while (pod_key := self._next()) is not None and self._may_start():
            permit = next(iter(self._queues[pod_key]))
            self.dequeue(permit)
            if permit.grant(pod_key):
                self._record_start(pod_key, permit)

    def _next(self) -> str | None:
        """Return the pod that was served least recently, of those that may have a permit; None without one.

        A pod's calls are never more than the free permits: two pods whose calls hang must not hold every permit.
        """
        free = self._at_once - self.in_flight
        pods = (pod_key for pod_key in self._queues if self._in_flight.get(pod_key, 0) < free)
        return min(pods, key=lambda pod_key: self._served.get(pod_key, 0), default=None)

    def _may_start(self) -> bool:
        """Return whether the next call may start now."""
        return True

    def _record_start(self, pod_key: str, _permit: P) -> None:
        self._in_flight[pod_key] = self._in_flight.get(pod_key, 0) + 1
        self._calls += 1
        self._served[pod_key] = self._calls
        self._served.move_to_end(pod_key)
        # A forgotten pod counts as never served, which only brings its next call forward.
        if len(self._served) > SERVED_MAX:
            self._served.popitem(last=False)


class Permit:
    """The permission for one call: first queued, then granted. Entered once."""

    def __init__(self, queue: FairQueue[Any], charged: Charged) -> None:
        self._queue = queue
        self._waiters = Waiters(charged) if isinstance(charged, str) else charged
        self._granted: asyncio.Future[None] | None = None
        self.queues: dict[str, None] = {}
        """The pods in whose queues it waits. Set by the queue."""
        self.pod_key = ""
        """The pod that is charged; empty until the call is granted."""

    def grant(self, pod_key: str) -> bool:
        """Wake the waiter and charge *pod_key*. Return False if it was cancelled and has not run since."""
        # A waiter that was cancelled has not left the queue until its task runs again.
        if self._granted is None or self._granted.done():
            return False
        self.pod_key = pod_key
        self._granted.set_result(None)
        return True

    def fail(self, error: Exception) -> None:
        """End the wait with *error*. Without effect once granted."""
        if self._granted is not None and not self._granted.done():
            self._queue.dequeue(self)
            self._granted.set_exception(error)

    def join(self, pod_key: str) -> None:
        """Wait in the queue of *pod_key* too. Without effect once granted."""
        if self.queues and pod_key not in self.queues:
            self._queue.join(self, pod_key)
            self._queue.advance()

    def leave(self, pod_key: str) -> None:
        """Wait no longer in the queue of *pod_key*, unless it is the only one."""
        # A call without waiters may continue, and must stay in some queue to be granted.
        if pod_key in self.queues and len(self.queues) > 1:
            self._queue.leave(self, pod_key)

    async def __aenter__(self) -> Self:
        await self._wait(self._waiters.pod_keys)
        return self

    async def _wait(self, pod_keys: Sequence[str]) -> None:
        self._granted = asyncio.get_running_loop().create_future()
        self._queue.enqueue(self, pod_keys)
        self._waiters.queued[self] = None
        self._queue.advance()
        try:
            await self._granted
        except asyncio.CancelledError:
            # The permit may have been granted, or the wait ended, between the cancellation and this line.
            if self._granted.cancelled():
                self._queue.dequeue(self)
            elif self._granted.exception() is None:
                self._queue.finish(self.pod_key)
            raise
        finally:
            del self._waiters.queued[self]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.finish(self.pod_key)


class GroupLimiter:
    """A concurrency limit with a second limit per group. In both, pods are served in the order of FairQueue.

    A group exists only while it has members: memory does not grow with the number of groups ever seen.
    """

    def __init__(self, in_total: int, per_group: int) -> None:
        self._total: FairQueue[Permit] = FairQueue(in_total)
        self._per_group = per_group
        self._groups: dict[str, FairQueue[Permit]] = {}

    @asynccontextmanager
    async def acquire(self, group: str, charged: Charged) -> AsyncIterator[None]:
        """Hold one unit of the limit for *group* on behalf of *charged*."""
        queue = self._groups.setdefault(group, FairQueue(self._per_group))
        try:
            # The group's limit comes first, so that a waiter for it does not use the total limit.
            async with Permit(queue, charged), Permit(self._total, charged):
                yield
        finally:
            if not _members(queue) and self._groups.get(group) is queue:
                del self._groups[group]

    def __len__(self) -> int:
        """Return the number of holders and waiters."""
        return sum(_members(queue) for queue in self._groups.values())


def _members(queue: FairQueue[Permit]) -> int:
    return queue.waiting + queue.in_flight
