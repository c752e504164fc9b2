"""Requests from an address without a pod record: they wait until the watch, or one read, delivers the pod.

The kubelet reports a pod's address after its containers have started, so a pod may send a request before the watch
delivers its address. All of this is bounded, separately for pods that a process of the node names: the memory of the
waiting requests (8 MiB), their time (5 s from the first request of the address), and the reads (2 per second). When the
memory is used, the address with the most requests loses one, so that no address can take the place of another.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, Final

from _native.index import PodRecord
from nmi.refusal import NO_ROOM_TO_WAIT, Refusal

PARK_SECONDS: Final = 5.0
WAITING_BYTES: Final = 8 << 20
REQUEST_BYTES: Final = 8 << 10
"""Memory of one waiting request at most, without its connection (tests/contract/nmi/test_held_request_memory.py)."""
WAITERS_MAX: Final = WAITING_BYTES // REQUEST_BYTES
"""More than the connections of one address, and four for each of the 250 pods of a full node."""
READ_AFTER_SECONDS: Final = 0.3
"""Most watch events are faster. The Go implementation waits this long between its attempts, too."""
READ_INTERVAL_SECONDS: Final = 0.5
NEGATIVE_SECONDS: Final = 1.0
UNANSWERED_SECONDS: Final = 60.0
"""For so long the end of the time is remembered for a client that disconnected before: its next request is refused.
If another pod has the address by then, and is unknown too, one request of that pod is refused instead."""
REMEMBERED_MAX: Final = 256


Read = Callable[[str], Awaitable[bool]]
"""Read one address from the API server and store the result in the index. Return whether the response was outdated, so
that the read must be repeated. Raise nothing: without a response the index stays as it is."""


class _End(Enum):
    """Why a wait ended."""

    ARRIVED = auto()
    LATE = auto()
    DISPLACED = auto()


class _Lookup:
    """One address (or name) without a pod record, from its first request until `end`."""

    __slots__ = ("is_read", "read", "reader", "refused", "since", "timer", "until", "waiters")

    def __init__(self, read: Read, since: float, until: float) -> None:
        self.read = read
        self.since = since
        self.until = until
        self.waiters: dict[asyncio.Future[_End], None] = {}
        """The requests that wait, in their order."""
        self.timer: asyncio.TimerHandle | None = None
        self.reader: asyncio.Task[None] | None = None
        """Its read, if that is on its way."""
        self.is_read = False
        self.refused = False
        """Whether a request got the refusal at the end of the time."""

    @property
    def end(self) -> float:
        """The time from which a request begins a new lookup."""
        return self.until + (NEGATIVE_SECONDS if self.refused else UNANSWERED_SECONDS)


class LookupWait:
    """Lookups by address. Each read is a task, which ends with the last waiter of its lookup.

    A read adds pods, and the registry of pods, which needs this object, reports them (`arrived`). So lookup and read
    are arguments of `find`, not of the constructor.
    """

    def __init__(self, *, park_seconds: float = PARK_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._park_seconds = park_seconds
        self._clock = clock
        self._waited: dict[str, _Lookup] = {}
        """The lookups for which requests wait."""
        self._remembered: OrderedDict[str, _Lookup] = OrderedDict()
        """The others: their time counts on, or has just ended."""
        self._waiting = 0
        self._unread: dict[str, _Lookup] = {}
        """The lookups for which requests wait and whose read is not sent, in the order in which it will be."""
        self._sending = False
        self._next_read = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        """The reads on their way, and the task that sends the others."""

    @property
    def waiting(self) -> int:
        return self._waiting

    async def find(
        self, address: str, lookup: Callable[[str], PodRecord | None], read: Read
    ) -> PodRecord | Refusal | None:
        """Return the pod record of *address* as soon as *lookup* returns one; None at the end of the time.

        A Refusal means that the request must not wait, or no longer, because too many do. The *read* of the first
        request of an address serves all of them.
        """
        # A loop: the pod that has arrived may be removed again before this request continues.
        while (record := lookup(address)) is None:
            match await self._wait(address, read):
                case _End.LATE:
                    return None
                case _End.DISPLACED:
                    return NO_ROOM_TO_WAIT
        return record

    def unknown_for(self, address: str) -> float:
        """Return for how many seconds *address* is refused without a lookup, because one has just failed."""
        lookup, now = self._remembered.get(address), self._clock()
        return max(0.0, lookup.until + NEGATIVE_SECONDS - now) if lookup is not None and lookup.until <= now else 0.0

    def arrived(self, address: str) -> None:
        """Wake the requests that wait for *address*, which the index now maps to a pod."""
        # The address has a pod now, so the next unknown owner gets its full time.
        self._remembered.pop(address, None)
        lookup = self._waited.pop(address, None)
        if lookup is not None:
            self._end(address, lookup, _End.ARRIVED)

    async def aclose(self) -> None:
        """Cancel the reads and timers. The owners of waiting requests cancel those."""
        for address, lookup in self._waited.items():
            self._stop(address, lookup)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, address: str, read: Read) -> _End:
        lookup = self._current(address, read)
        if lookup.until <= self._clock():
            lookup.refused = True
            return _End.LATE
        # A request of an address below its share displaces one of the largest, so that new pods can wait.
        if self._waiting >= WAITERS_MAX and not self._makes_room(lookup):
            return _End.DISPLACED
        waiter: asyncio.Future[_End] = asyncio.get_running_loop().create_future()
        self._begin(address, lookup, waiter)
        try:
            return await waiter
        finally:
            if waiter in lookup.waiters:
                # The client has disconnected. A read that no request waits for must not delay those of other addresses.
                self._resolve(lookup, waiter, _End.DISPLACED)
                if not lookup.waiters:
                    self._rest(address, lookup)

    def _current(self, address: str, read: Read) -> _Lookup:
        """Return the lookup of *address*: a new one if there is none, or if it has ended."""
        now = self._clock()
        lookup = self._waited.get(address) or self._remembered.get(address)
        if lookup is None or lookup.end <= now:
            return _Lookup(read, now, now + self._park_seconds)
        return lookup

    def _begin(self, address: str, lookup: _Lookup, waiter: "asyncio.Future[_End]") -> None:
        lookup.waiters[waiter] = None
        self._waiting += 1
        if len(lookup.waiters) > 1:
            return
        self._remembered.pop(address, None)
        self._waited[address] = lookup
        timer = asyncio.get_running_loop().call_later
        lookup.timer = timer(lookup.until - self._clock(), self._late, address, lookup)
        if not lookup.is_read:
            self._send_later(address, lookup)

    def _makes_room(self, lookup: _Lookup) -> bool:
        """Displace a request of another address if *lookup* has less than its share. Return whether one was displaced.

        The address with most requests has more than one, and loses the newest: the others are closer to their response.
        """
        addresses = len(self._waited) + (not lookup.waiters)
        # An address with its share displaces no other, or two addresses would displace each other's.
        if len(lookup.waiters) >= WAITERS_MAX // addresses:
            return False
        most = max(self._waited.values(), key=lambda waited: len(waited.waiters))
        waiter = next(reversed(most.waiters))
        self._resolve(most, waiter, _End.DISPLACED)
        return True

    def _late(self, address: str, lookup: _Lookup) -> None:
        # The loop's timer may end a little early by this clock, and the next request must find that the time has ended.
        lookup.until = min(lookup.until, self._clock())
        lookup.refused = True
        self._end(address, lookup, _End.LATE)
        self._rest(address, lookup)

    def _end(self, address: str, lookup: _Lookup, end: _End) -> None:
        self._stop(address, lookup)
        for waiter in list(lookup.waiters):
            self._resolve(lookup, waiter, end)

    def _resolve(self, lookup: _Lookup, waiter: "asyncio.Future[_End]", end: _End) -> None:
        del lookup.waiters[waiter]
        self._waiting -= 1
        if not waiter.done():
            waiter.set_result(end)

    def _rest(self, address: str, lookup: _Lookup) -> None:
        """Remember *lookup*, for which no request waits now, for a limited time."""
        self._stop(address, lookup)
        del self._waited[address]
        self._remembered[address] = lookup
        # One entry per call is enough, because a call adds one: the cost does not depend on the number.
        oldest = next(iter(self._remembered.values()))
        if len(self._remembered) > REMEMBERED_MAX or oldest.end <= self._clock():
            self._remembered.popitem(last=False)

    def _stop(self, address: str, lookup: _Lookup) -> None:
        self._unread.pop(address, None)
        if lookup.timer is not None:
            lookup.timer.cancel()
        # A read that no request waits for would use the rate of other addresses.
        if lookup.reader is not None:
            lookup.reader.cancel()
        lookup.timer = lookup.reader = None

    # Reads.

    def _send_later(self, address: str, lookup: _Lookup) -> None:
        self._unread[address] = lookup
        if not self._sending:
            self._sending = True
            self._run(self._send_reads(), "send reads about unknown addresses")

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send_reads(self) -> None:
        """Send each read, after the watch's time has passed and as the node's rate allows, until none is left.

        A lookup that ends before its read is sent takes no part of the rate.
        """
        while self._unread:
            address, lookup = next(iter(self._unread.items()))
            now = self._clock()
            # A lookup may end during the pause, so the next one is chosen again after it.
            at = max(self._next_read, lookup.since + READ_AFTER_SECONDS)
            if at > now:
                await asyncio.sleep(at - now)
                continue
            self._next_read = now + READ_INTERVAL_SECONDS
            del self._unread[address]
            lookup.reader = self._run(self._read_once(address, lookup), "look up an unknown address")
        self._sending = False

    async def _read_once(self, address: str, lookup: _Lookup) -> None:
        outdated = await lookup.read(address)
        lookup.reader = None
        if not lookup.waiters:
            return  # the read has delivered the pod
        # The response may be older than an event, so nothing follows from it.
        if outdated:
            self._send_later(address, lookup)
        else:
            lookup.is_read = True
