"""The governor: how fast, and how many at once, this node calls IMDS, and whose turn it is.

IMDS allows a VM 20 identity calls a second and 5 at once; everything beyond is a 429 for every pod of the node. Each
call of NMI's to IMDS (tokens, pass-through, exceptions) takes a slot here first. Slots go round between pods, evenly
over the second, and no pod has all of them: one that asks for a hundred things waits behind itself and not in front of
its neighbours. Knows nothing of what is asked.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from types import TracebackType
from typing import Final, Self

from nmi.tokens.breaker import Breaker, Pass
from podidentity.azure.errors import Paused, Throttled
from podidentity.azure.imds import PATIENCE_SECONDS

CALLS_AT_ONCE: Final = 5
CALLS_PER_WINDOW: Final = 20
WINDOW_SECONDS: Final = 1.05
"""A little over a second: calls that leave evenly do not arrive evenly."""
BURST: Final = 4
"""Calls that may begin together after a quiet moment; the others follow evenly, so that a newcomer's turn is near."""

WAITERS_MAX: Final = 1024
"""In all; at 20 a second the last of them has waited longer than any request may."""
WAITERS_PER_POD: Final = 64
PAUSE_SECONDS: Final = 1.0
"""The pause after a 429 that says nothing of how long."""
PAUSE_MAX_SECONDS: Final = 30.0
"""However long IMDS asks for: after it one call finds out whether it is still busy."""

STATE_MAX: Final = 200
"""Pods that `state` lists."""


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
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """One pod has at most one slot less than *at_once*. *breaker*: its own, by the same clock, unless given."""
        self._at_once = at_once
        self._at_once_per_pod = max(1, at_once - 1)
        self._window_seconds = window_seconds
        self._interval = window_seconds / per_window
        self._starts: deque[float] = deque(maxlen=per_window)
        self._due = float("-inf")
        """When the next call would begin if they all began evenly (GCRA's theoretical arrival time)."""
        self._waiters_max = waiters_max
        self._waiters_per_pod = waiters_per_pod
        self._clock = clock
        self._queues: OrderedDict[str, deque[Slot]] = OrderedDict()
        self._waiting = 0
        self._in_flight: dict[str, int] = {}
        self._paused_until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._observe_wait: Callable[[float], None] = lambda _seconds: None
        self.breaker = breaker if breaker is not None else Breaker(clock=clock)
        self.breaker.when_open(self._fail_the_shut_out)
        self.refused = 0
        """Calls that found their queue full."""

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def in_flight(self) -> int:
        return sum(self._in_flight.values())

    @property
    def pause_left(self) -> float:
        """Seconds for which IMDS has asked to be left alone from now; 0 if it has not."""
        return max(0.0, self._paused_until - self._clock())

    def observe_waits(self, observe: Callable[[float], None]) -> None:
        """*observe* is told the seconds that each call has waited for its slot."""
        self._observe_wait = observe

    def slot(self, pod_key: str) -> "Slot":
        """One call on behalf of *pod_key* that is not for a token: entered when it may be made, left when it is over.

        Entering raises CongestedError when too many wait, or when IMDS has asked for a pause too long to sit out.
        """
        return Slot(self, pod_key)

    def token_slot(self, pod_key: str, patience: float = PATIENCE_SECONDS) -> "Slot":
        """One call for a token on behalf of *pod_key*, who can wait *patience* seconds for the end of a pause.

        As `slot`, but the breaker decides first and learns how the call ended (by what leaves the slot). A Throttled
        that leaves it pauses everyone for its *retry_after*. Entering raises CongestedError when too many wait,
        Paused for a pause over *patience* or PATIENCE_SECONDS, and NotSent; so does a wait that one of them cuts
        short.
        """
        return Slot(self, pod_key, self.breaker, max(0.0, min(patience, PATIENCE_SECONDS)))

    def pause(self, seconds: float) -> None:
        """Begin no call for *seconds* (at most PAUSE_MAX_SECONDS) from now; calls in the air go on.

        Who waits is told, unless it can wait for so long.
        """
        until = self._clock() + min(seconds, PAUSE_MAX_SECONDS)
        self._paused_until = max(self._paused_until, until)
        for slot in self._slots():
            if self.pause_left > slot.patience:
                slot.fail(self._busy(slot))

    def now(self) -> float:
        return self._clock()

    def close(self) -> None:
        """Let no timer outlive its owner. Whoever still waits is cancelled by its own."""
        self._stop_timer()

    def state(self) -> dict[str, object]:
        """For the operator: JSON-able, at most STATE_MAX pods."""
        return {
            "in_flight": dict(islice(self._in_flight.items(), STATE_MAX)),
            "waiting": {pod_key: len(queue) for pod_key, queue in islice(self._queues.items(), STATE_MAX)},
            "waiting_in_all": self._waiting,
            "paused_seconds": round(self.pause_left, 1),
            "breaker": self.breaker.state_now(),
        }

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _slots(self) -> "list[Slot]":
        return [slot for queue in self._queues.values() for slot in queue]

    def _busy(self, slot: "Slot") -> Paused | CongestedError:
        if slot.breaker is None:
            return CongestedError(retry_after=max(1.0, self.pause_left))
        return Paused("IMDS has asked for a pause", status=429, code="throttled", retry_after=self.pause_left)

    def _fail_the_shut_out(self) -> None:
        for slot in self._slots():
            refusal = slot.breaker.refusal(slot.pod_key) if slot.breaker is not None else None
            if refusal is not None:
                slot.fail(refusal)

    # What slots do.

    def enqueue(self, slot: "Slot") -> None:
        """Raises CongestedError when the queue, or the pod's part of it, is full, and as token_slot says."""
        if self.pause_left > slot.patience:
            raise self._busy(slot)
        if self._waiting >= self._waiters_max or len(self._queues.get(slot.pod_key, ())) >= self._waiters_per_pod:
            self.refused += 1
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

    def finish(self, pod_key: str) -> None:
        """A call of *pod_key*'s is over."""
        self._in_flight[pod_key] -= 1
        if not self._in_flight[pod_key]:
            del self._in_flight[pod_key]
        self.advance()

    def advance(self) -> None:
        """Give slots to whoever is next while the limits allow; if only time stands in the way, set the timer."""
        self._stop_timer()
        while self.in_flight < self._at_once:
            pod_key = self._next()
            if pod_key is None:
                return
            delay = self._delay()
            if delay > 0.0:
                self._timer = asyncio.get_running_loop().call_later(delay, self.advance)
                return
            slot = self._queues[pod_key][0]
            self.dequeue(slot)
            if pod_key in self._queues:
                self._queues.move_to_end(pod_key)
            if slot.grant():
                now = self._clock()
                self._in_flight[pod_key] = self._in_flight.get(pod_key, 0) + 1
                self._starts.append(now)
                self._due = max(self._due, now) + self._interval
                self._observe_wait(now - slot.queued_at)

    def _next(self) -> str | None:
        """Whose turn it is: the pod that has waited longest for one, of those that have not their share already."""
        for pod_key in self._queues:
            if self._in_flight.get(pod_key, 0) < self._at_once_per_pod:
                return pod_key
        return None

    def _delay(self) -> float:
        """Seconds until the next call may begin; not positive when that is now."""
        now = self._clock()
        until = max(self._paused_until, self._due - (BURST - 1) * self._interval)
        if self._starts.maxlen is not None and len(self._starts) == self._starts.maxlen:
            until = max(until, self._starts[0] + self._window_seconds)
        return until - now


class Slot:
    """One place in the queue, then one call. Made by Governor, entered once."""

    def __init__(
        self,
        governor: Governor,
        pod_key: str,
        breaker: Breaker | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._governor = governor
        self._granted: asyncio.Future[None] | None = None
        self._pass: Pass | None = None
        self.breaker = breaker
        self.patience = patience
        """Seconds of a pause that it can wait."""
        self.pod_key = pod_key
        self.queued_at = 0.0

    def grant(self) -> bool:
        """Wake the waiter; False if it has been cancelled and only not run since."""
        if self._granted is None or self._granted.done():
            return False
        self._granted.set_result(None)
        return True

    def fail(self, error: Exception) -> None:
        """End the wait with *error*; nothing once the call may be made."""
        if self._granted is not None and not self._granted.done():
            self._governor.dequeue(self)
            self._granted.set_exception(error)

    def recharge(self, pod_key: str) -> None:
        """Wait on *pod_key*'s account from now on, at the end of its queue; nothing once the call may be made."""
        if self._granted is None:
            self.pod_key = pod_key
        elif pod_key != self.pod_key and not self._granted.done():
            self._governor.dequeue(self)
            self.pod_key = pod_key
            self._governor.requeue(self)

    async def __aenter__(self) -> Self:
        if self.breaker is not None:
            self._pass = self.breaker.admit(self.pod_key)
        try:
            await self._wait()
        except BaseException:
            if self._pass is not None:
                self._pass.unused()
            raise
        if self._pass is not None:
            self._pass.account = self.pod_key
        return self

    async def _wait(self) -> None:
        self._granted = asyncio.get_running_loop().create_future()
        self.queued_at = self._governor.now()
        self._governor.enqueue(self)
        self._governor.advance()
        try:
            await self._granted
        except asyncio.CancelledError:
            # The slot may have been granted, or the wait ended, in the very moment in which its waiter was cancelled.
            if self._granted.cancelled():
                self._governor.dequeue(self)
            elif self._granted.exception() is None:
                self._governor.finish(self.pod_key)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pass is not None:
            self._pass.ended(error)
        if isinstance(error, Throttled):
            self._governor.pause(PAUSE_SECONDS if error.retry_after is None else error.retry_after)
        self._governor.finish(self.pod_key)
