"""The governor: how fast, and how many at once, this node calls IMDS, and whose turn it is.

IMDS allows a VM 20 identity calls a second and 5 at once; everything beyond is a 429 for every pod of the node. Each
call of NMI's to IMDS (tokens, pass-through, exceptions) takes a slot here first. Slots go round between pods, so one
that asks for a hundred things waits behind itself and not in front of its neighbours. Knows nothing of what is asked.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from podidentity.azure.errors import Throttled

CALLS_AT_ONCE: Final = 5
CALLS_PER_WINDOW: Final = 20
WINDOW_SECONDS: Final = 1.05
"""A little over a second: calls that leave evenly do not arrive evenly."""

WAITERS_MAX: Final = 1024
"""In all; at 20 a second the last of them has waited longer than any request may."""
WAITERS_PER_POD: Final = 64
PAUSE_MAX_SECONDS: Final = 30.0
"""However long IMDS asks for: after it one call finds out whether it is still busy."""


class CongestedError(Exception):
    """So many calls are waiting that another one would not be made in time. *retry_after* is seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("too many calls to IMDS are waiting")


class Governor:
    """Hands out slots. Holds no task of its own: whoever takes or leaves a slot moves the queue on, or a timer does."""

    def __init__(
        self,
        *,
        at_once: int = CALLS_AT_ONCE,
        per_window: int = CALLS_PER_WINDOW,
        window_seconds: float = WINDOW_SECONDS,
        waiters_max: int = WAITERS_MAX,
        waiters_per_pod: int = WAITERS_PER_POD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once = at_once
        self._window_seconds = window_seconds
        self._starts: deque[float] = deque(maxlen=per_window)
        self._waiters_max = waiters_max
        self._waiters_per_pod = waiters_per_pod
        self._clock = clock
        self._queues: OrderedDict[str, deque[Slot]] = OrderedDict()
        self._waiting = 0
        self._in_flight = 0
        self._paused_until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def slot(self, pod_key: str) -> "Slot":
        """One call on behalf of *pod_key*: entered when it may be made, left when it is over.

        Entering raises CongestedError when too many wait. A Throttled that leaves the slot pauses everyone for its
        *retry_after*.
        """
        return Slot(self, pod_key)

    def pause(self, seconds: float) -> None:
        """Begin no call for *seconds* (at most PAUSE_MAX_SECONDS) from now; calls in the air go on."""
        until = self._clock() + min(seconds, PAUSE_MAX_SECONDS)
        self._paused_until = max(self._paused_until, until)

    def close(self) -> None:
        """Let no timer outlive its owner. Whoever still waits is cancelled by its own."""
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What slots do.

    def enqueue(self, slot: "Slot") -> None:
        """Raises CongestedError when the queue, or the pod's part of it, is full."""
        if self._waiting >= self._waiters_max or len(self._queues.get(slot.pod_key, ())) >= self._waiters_per_pod:
            raise CongestedError(retry_after=max(1.0, self._delay()))
        self.requeue(slot)

    def requeue(self, slot: "Slot") -> None:
        """As enqueue, for one that had a place before: never refused."""
        self._queues.setdefault(slot.pod_key, deque()).append(slot)
        self._waiting += 1

    def dequeue(self, slot: "Slot") -> None:
        """Take *slot* out of its pod's queue; nothing if it is not there."""
        queue = self._queues.get(slot.pod_key)
        if queue is None or slot not in queue:
            return
        queue.remove(slot)
        self._waiting -= 1
        if not queue:
            del self._queues[slot.pod_key]

    def finish(self) -> None:
        self._in_flight -= 1
        self.advance()

    def advance(self) -> None:
        """Give slots to whoever is next while the limits allow; if only time stands in the way, set the timer."""
        self._stop_timer()
        while self._waiting and self._in_flight < self._at_once:
            delay = self._delay()
            if delay > 0.0:
                self._timer = asyncio.get_running_loop().call_later(delay, self.advance)
                return
            pod_key, queue = next(iter(self._queues.items()))
            slot = queue[0]
            self.dequeue(slot)
            if pod_key in self._queues:
                self._queues.move_to_end(pod_key)
            if slot.grant():
                self._in_flight += 1
                self._starts.append(self._clock())

    def _delay(self) -> float:
        """Seconds until the next call may begin; not positive when that is now."""
        now = self._clock()
        until = self._paused_until
        if self._starts.maxlen is not None and len(self._starts) == self._starts.maxlen:
            until = max(until, self._starts[0] + self._window_seconds)
        return until - now


class Slot:
    """One place in the queue, then one call. Made by Governor.slot, entered once."""

    def __init__(self, governor: Governor, pod_key: str) -> None:
        self._governor = governor
        self._granted: asyncio.Future[None] | None = None
        self.pod_key = pod_key

    def grant(self) -> bool:
        """Wake the waiter; False if it has been cancelled and only not run since."""
        if self._granted is None or self._granted.done():
            return False
        self._granted.set_result(None)
        return True

    def recharge(self, pod_key: str) -> None:
        """Wait on *pod_key*'s account from now on, at the end of its queue; nothing once the call may be made."""
        if self._granted is None:
            self.pod_key = pod_key
        elif pod_key != self.pod_key and not self._granted.done():
            self._governor.dequeue(self)
            self.pod_key = pod_key
            self._governor.requeue(self)

    async def __aenter__(self) -> Self:
        self._granted = asyncio.get_running_loop().create_future()
        self._governor.enqueue(self)
        self._governor.advance()
        try:
            await self._granted
        except asyncio.CancelledError:
            # The slot may have been granted in the very moment in which its waiter was cancelled.
            if self._granted.cancelled():
                self._governor.dequeue(self)
            else:
                self._governor.finish()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Throttled) and error.retry_after is not None:
            self._governor.pause(error.retry_after)
        self._governor.finish()
