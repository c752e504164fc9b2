"""Requests from an address without a pod record: they wait until the watch, or one read, delivers the pod.

The kubelet reports a pod's address after its containers have started, so a pod may send a request before the watch
delivers its address. All of this is bounded: the waiting requests (64), their time (5 s), and the reads (2 per second).
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from _native.index import PodRecord

log = logging.getLogger(__name__)

PARK_SECONDS: Final = 5.0
WAITERS_MAX: Final = 64
READ_AFTER_SECONDS: Final = 0.3
"""Most watch events are faster. The Go implementation waits this long between its attempts, too."""
READ_INTERVAL_SECONDS: Final = 0.5
NEGATIVE_SECONDS: Final = 1.0
NEGATIVES_MAX: Final = 256


class _PendingLookup:
    """One address (or name) for which requests wait."""

    def __init__(self, reader: asyncio.Task[None]) -> None:
        self.arrived = asyncio.Event()
        self.waiters = 0
        self.reader = reader


class LookupWait:
    """Pending lookups by address. The reads of a lookup are a task that ends with the last waiter."""

    def __init__(
        self,
        lookup: Callable[[str], PodRecord | None],
        read: Callable[[str], Awaitable[bool]],
        *,
        park_seconds: float = PARK_SECONDS,
        read_after_seconds: float = READ_AFTER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the callbacks.

        *lookup* queries the index. *read* reads one address from the API server and stores the result in the index. It
        returns whether its response was outdated, so that it must be repeated. It raises nothing: without a response
        the index stays as it is.
        """
        self._lookup = lookup
        self._read = read
        self._park_seconds = park_seconds
        self._read_after_seconds = read_after_seconds
        self._clock = clock
        self._places: dict[str, _PendingLookup] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._next_read = float("-inf")
        self._negatives: OrderedDict[str, float] = OrderedDict()
        self.turned_away = 0
        """Requests that were refused because WAITERS_MAX were waiting."""

    @property
    def waiting(self) -> int:
        return self._waiting

    async def find(self, address: str) -> PodRecord | None:
        """Return the pod record of *address* as soon as there is one; None after the time limit, or at WAITERS_MAX."""
        record = self._lookup(address)
        if record is not None:
            return record
        place = self._places.get(address)
        if place is None and self._clock() < self._negatives.get(address, float("-inf")):
            return None
        if self._waiting >= WAITERS_MAX:
            self.turned_away += 1
            return None
        if place is None:
            reader = asyncio.create_task(self._read_once(address), name="look up an unknown address")
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
            place = self._places[address] = _PendingLookup(reader)
        self._waiting += 1
        place.waiters += 1
        try:
            async with asyncio.timeout(self._park_seconds):
                while (record := self._lookup(address)) is None:
                    place.arrived.clear()
                    await place.arrived.wait()
                return record
        except TimeoutError:
            self._remember(address)
            return None
        finally:
            self._waiting -= 1
            place.waiters -= 1
            if place.waiters == 0:
                del self._places[address]
                place.reader.cancel()

    def unknown_for(self, address: str) -> float:
        """Return for how many seconds *address* is refused without a lookup, because one has just failed."""
        return max(0.0, self._negatives.get(address, float("-inf")) - self._clock())

    def arrived(self, address: str) -> None:
        """Wake the requests that wait for *address*, which the index now maps to a pod."""
        self._negatives.pop(address, None)
        place = self._places.get(address)
        if place is not None:
            place.arrived.set()

    async def aclose(self) -> None:
        """Cancel the reads. The owners of waiting requests cancel those."""
        readers = list(self._readers)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def _read_once(self, address: str) -> None:
        """Read, after the watch's time has passed and as the node's rate allows."""
        await asyncio.sleep(self._read_after_seconds)
        outdated = True
        while outdated:
            now = self._clock()
            at = max(now, self._next_read)
            self._next_read = at + READ_INTERVAL_SECONDS
            await asyncio.sleep(at - now)
            outdated = await self._read(address)

    def _remember(self, address: str) -> None:
        self._negatives[address] = self._clock() + NEGATIVE_SECONDS
        self._negatives.move_to_end(address)
        while len(self._negatives) > NEGATIVES_MAX:
            self._negatives.popitem(last=False)
