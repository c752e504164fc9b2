"""The governor: the rate and concurrency limits of the node's calls to IMDS, with a fair order between pods.

IMDS allows a VM 20 identity calls per second and 5 concurrently; beyond that, every pod of the node receives 429. Each
call that NMI makes to IMDS (tokens, pass-through, exceptions) needs a permit from the governor. Permits go to pods in
the order of `nmi.tokens.fair_queue`, evenly over the second. The governor does not know the content of a call.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from types import TracebackType
from typing import Final, Self

from nmi.tokens.breaker import Breaker, Pass
from nmi.tokens.fair_queue import Charged, FairQueue, Permit
from podidentity.azure.errors import NotSent, Paused, Throttled
from podidentity.azure.imds import PATIENCE_SECONDS

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

CALLS_AT_ONCE: Final = 5
CALLS_PER_WINDOW: Final = 20
WINDOW_SECONDS: Final = 1.05
"""A little over a second: calls sent at an even rate do not arrive at an even rate."""
BURST: Final = 4
"""Calls that may start together after an idle time. The others follow evenly, so that a new pod waits briefly."""

WAITERS_MAX: Final = 1024
"""In total. At 20 per second, the last of them would wait longer than any request may."""
WAITERS_PER_POD: Final = 64
PAUSE_SECONDS: Final = 1.0
"""The pause after a 429 without Retry-After."""
PAUSE_MAX_SECONDS: Final = 30.0
"""The maximum, even if IMDS requests a longer pause. After it, one call shows whether IMDS is still busy."""

STATE_MAX: Final = 200
"""Pods listed by `state`."""


class CongestedError(Exception):
    """The queue is too long: another call would not start in time. *retry_after* is in seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("too many calls to IMDS are waiting")


class Governor(FairQueue["CallPermit"]):
    """Queue of CallPermits. A timer advances it too."""

    def __init__(
        self,
        *,
        at_once: int = CALLS_AT_ONCE,
        per_window: int = CALLS_PER_WINDOW,
        window_seconds: float = WINDOW_SECONDS,
        burst: int = BURST,
        waiters_max: int = WAITERS_MAX,
        waiters_per_pod: int = WAITERS_PER_POD,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without *breaker*, it creates one with the same clock."""
        super().__init__(at_once)
        self._window_seconds = window_seconds
        self._interval = window_seconds / per_window
        self._lead = (burst - 1) * self._interval
        self._starts: deque[float] = deque(maxlen=per_window)
        self._due = float("-inf")
        """The start of the next call if all calls started evenly (GCRA's theoretical arrival time)."""
        self._waiters_max = waiters_max
        self._waiters_per_pod = waiters_per_pod
        self._clock = clock
        self._paused_until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._observe_wait: Callable[[float], None] = lambda _seconds: None
        self.breaker = breaker if breaker is not None else Breaker(clock=clock)
        self.breaker.when_open(self._fail_refused)
        self.refused = 0
        """Calls rejected because their queue was full."""

    @property
    def pause_left(self) -> float:
        """The remaining seconds of the pause that IMDS requested; 0 without one."""
        return max(0.0, self._paused_until - self._clock())

    def observe_waits(self, observe: Callable[[float], None]) -> None:
        """Call *observe* with the seconds that each call waited for its permit."""
        self._observe_wait = observe

    def permit(self, charged: Charged) -> "CallPermit":
        """Return a permit for one call on behalf of *charged* that is not for a token: enter it for the call.

        Entering raises CongestedError if the queue is full or if the pause that IMDS requested is too long.
        """
        return CallPermit(self, charged)

    def token_permit(self, charged: Charged, patience: float = PATIENCE_SECONDS) -> "CallPermit":
        """Return a permit for one token call on behalf of *charged*, which waits at most *patience* seconds of a pause.

        As `permit`, but the breaker decides first and records the outcome (the exception that leaves the permit). A
        Throttled that leaves the permit pauses all calls for its *retry_after*. Entering raises CongestedError if the
        queue is full, Paused for a pause over *patience* or PATIENCE_SECONDS, and NotSent. These errors also end a
        wait that has begun.
        """
        return CallPermit(self, charged, self.breaker, max(0.0, min(patience, PATIENCE_SECONDS)))

    def pause(self, seconds: float) -> None:
        """Start no call for *seconds* (at most PAUSE_MAX_SECONDS) from now. Calls in flight continue.

        Waiters with an earlier deadline fail.
        """
        # A wrong Retry-After of IMDS must not stop the tokens of the node for hours.
        until = self._clock() + min(seconds, PAUSE_MAX_SECONDS)
        self._paused_until = max(self._paused_until, until)
        for permit in self._queued_permits():
            # These waiters would only time out during the pause; the error states when the next attempt can succeed.
            if self.pause_left > permit.patience:
                permit.fail(self._busy(permit))

    def close(self) -> None:
        """Cancel the timer. The owners of the remaining waiters cancel them."""
        self._stop_timer()

    def state(self) -> dict[str, object]:
        """Return the state for /debug/state: JSON-able, at most STATE_MAX pods."""
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

    def _queued_permits(self) -> "list[CallPermit]":
        return list(dict.fromkeys(permit for queue in self._queues.values() for permit in queue))

    def _busy(self, permit: "CallPermit") -> Paused | CongestedError:
        if permit.breaker is None:
            return CongestedError(retry_after=max(1.0, self.pause_left))
        return Paused("IMDS requested a pause", status=429, code="throttled", retry_after=self.pause_left)

    def _fail_refused(self) -> None:
        for permit in self._queued_permits():
            permit.leave_refused()

    # Called by permits.

    @override
    def enqueue(self, permit: "CallPermit", pod_keys: Sequence[str]) -> None:
        """Queue *permit* for each of *pod_keys*, at least one, whose queue is not full.

        Raise CongestedError if all are full, and the errors of token_permit for a pause. If the limit in total is
        reached, the longest queue loses its last permit to a pod with a shorter one.
        """
        if self.pause_left > permit.patience:
            raise self._busy(permit)
        permit.queued_at = self._clock()
        super().enqueue(permit, pod_keys)
        if permit.queues and (self._waiting <= self._waiters_max or self._displace(permit)):
            return
        self.dequeue(permit)
        raise self._congested()

    @override
    def join(self, permit: "CallPermit", pod_key: str) -> None:
        """Add *permit* to the queue of *pod_key* unless it is full."""
        # One pod must not fill the queue in total, whose last permits are for the others.
        if len(self._queues.get(pod_key, ())) < self._waiters_per_pod:
            super().join(permit, pod_key)

    def _displace(self, permit: "CallPermit") -> bool:
        """Fail a permit in favour of *permit*: the last of the longest queue whose queues are all longer than its own.

        Return whether there was one.
        """

        # A call that several pods share counts as one of its pod with the shortest queue: otherwise pods could protect
        # their full queues by a shared call at the end.
        def shortest(queued: "CallPermit") -> int:
            return min(len(self._queues[pod_key]) for pod_key in queued.queues)

        longest, own = max(self._queues.values(), key=len), shortest(permit)
        last = next((queued for queued in reversed(longest) if shortest(queued) > own), None)
        if last is None:
            return False
        self.dequeue(last)
        last.fail(self._congested())
        return True

    def _congested(self) -> CongestedError:
        self.refused += 1
        return CongestedError(retry_after=max(1.0, self._delay()))

    @override
    def advance(self) -> None:
        """Grant permits in order while the limits allow; set the timer if only the rate limit forbids the next one."""
        self._stop_timer()
        super().advance()

    @override
    def _may_start(self) -> bool:
        delay = self._delay()
        if delay > 0.0:
            self._timer = asyncio.get_running_loop().call_later(delay, self.advance)
        return delay <= 0.0

    @override
    def _record_start(self, pod_key: str, permit: "CallPermit") -> None:
        super()._record_start(pod_key, permit)
        now = self._clock()
        self._starts.append(now)
        self._due = max(self._due, now) + self._interval
        self._observe_wait(now - permit.queued_at)

    def _delay(self) -> float:
        """Return the seconds until the next call may start; zero or less if it may start now."""
        now = self._clock()
        until = max(self._paused_until, self._due - self._lead)
        # A burst and the even rate after it would together exceed the limit of one window.
        if self._starts.maxlen is not None and len(self._starts) == self._starts.maxlen:
            until = max(until, self._starts[0] + self._window_seconds)
        return until - now


class CallPermit(Permit):
    """The permission for one call to IMDS. Created by Governor."""

    def __init__(
        self,
        governor: Governor,
        charged: Charged,
        breaker: Breaker | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(governor, charged)
        self._governor = governor
        self._pass: Pass | None = None
        self.breaker = breaker
        self.patience = patience
        """The seconds of a pause that the caller can wait."""
        self.queued_at = 0.0
        """Set by the governor."""

    @override
    def join(self, pod_key: str) -> None:
        """Wait in the queue of *pod_key* too, unless it is full or the breaker refuses the pod's calls."""
        if self._refusal([pod_key]) is None:
            super().join(pod_key)

    def leave_refused(self) -> None:
        """Leave the queues of pods whose calls the breaker refuses; fail if it refuses all."""
        refusal = self._refusal([*self.queues])
        if refusal is not None:
            self.fail(refusal)
            return
        for pod_key in [*self.queues]:
            if self._refusal([pod_key]) is not None:
                self._governor.leave(self, pod_key)

    def _refusal(self, pod_keys: Sequence[str]) -> NotSent | None:
        return self.breaker.refusal_of_all(pod_keys) if self.breaker is not None else None

    @override
    async def __aenter__(self) -> Self:
        pod_keys: Sequence[str] = self._waiters.pod_keys
        if self.breaker is not None:
            # A pod whose calls the breaker refuses must not fail the call that it shares with others.
            pod_keys = [pod_key for pod_key in pod_keys if self.breaker.refusal(pod_key) is None] or pod_keys[:1]
            self._pass = self.breaker.admit(pod_keys[0])
        try:
            await self._wait(pod_keys)
        except BaseException:
            if self._pass is not None:
                # The breaker would otherwise wait for the outcome of a probe that was never sent.
                self._pass.unused()
            raise
        if self._pass is not None:
            # The breaker admitted the first pod, but the queue may charge another one.
            self._pass.account = self.pod_key
        return self

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pass is not None:
            # Breaker and pause come first: the end of the permit starts the next call.
            self._pass.ended(error)
        if isinstance(error, Throttled):
            self._governor.pause(PAUSE_SECONDS if error.retry_after is None else error.retry_after)
        await super().__aexit__(kind, error, traceback)
