"""Flights, which several requests may share, and the timers of the next ones (*single flight*, early refresh).

The broker owns a flight, not the request that started it: a waiter that gives up does not affect the others. Each
call is charged to the waiting pod whose turn comes first. Without waiters, the flight is cancelled while it
is queued or pauses between attempts, but a call that was sent is completed because its token will be used. Only a
flight that received 410 from IMDS (which updates itself for up to 70 seconds) continues without waiters: the next
request joins it.
"""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from typing import Any, Final

from nmi.tokens.breaker import is_failure
from nmi.tokens.cache import RESOURCE_SHOWN, STATE_MAX, CachedToken, shown_identity
from nmi.tokens.fair_queue import Charged, Waiters
from nmi.tokens.governor import CallPermit, CongestedError, Governor
from nmi.tokens.source import FetchObserver, FetchRequest, TokenKey
from podidentity.azure.errors import AzureError, Paused, Unreachable
from podidentity.azure.imds import PATIENCE_SECONDS
from podidentity.resources import IdentityType

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

log = logging.getLogger(__name__)

GONE_RETRY_SECONDS: Final = 10.0
"""The Retry-After of a 410: by then the flight has made at least one more attempt."""
DRIFTING_MAX: Final = 32
"""Flights that may continue without waiters while IMDS returns 410. Cancelling more of them costs their pods a new
flight each."""

NOT_REFRESHED: Final = "token refresh failed, the cached token is still served; check that IMDS responds on this node"
NOT_REFRESHED_BY_SIGN_IN: Final = (
    "token refresh failed, the cached token is still served; check what the error names, and that the sign-in endpoint "
    "and the API server respond to this node"
)


class AbandonedError(Exception):
    """The flight has no waiters. Never raised to a caller."""


class Flight(FetchObserver):
    """A fetch that starts with its constructor; `task` ends with the token or the error. Owned by its creator."""

    def __init__(
        self,
        governor: Governor,
        fetch: Callable[["Flight"], Coroutine[Any, Any, CachedToken]],
        *,
        name: str,
        namespace: str,
        background: bool = False,
        begun: float = 0.0,
        may_drift: Callable[[], bool] = lambda: False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """*namespace*: that of the AzureIdentity. *background*: continue without waiters. *begun*: the present time by
        the owner's clock.

        *may_drift* decides whether the flight continues after a 410 without waiters. *patience*: the seconds of an
        IMDS pause that the flight waits.
        """
        self._governor = governor
        self._may_drift = may_drift
        self._patience = patience
        # A refresh ahead of expiry has no waiters. No pod has this key.
        self._waiters = Waiters(otherwise=f"(refresh) {namespace}")
        self._permit: CallPermit | None = None
        """The last one of the governor."""
        self._sent = False
        self._sending = 0
        self._dropped: Callable[[Flight], None] = lambda _flight: None
        self._last_error: AzureError | None = None
        self.begun = begun
        self.namespace = namespace
        self.background = background
        self.drifting = False
        """Whether the flight continues only because of a 410."""
        self.task: asyncio.Task[CachedToken] = asyncio.create_task(fetch(self), name=name)
        self.task.add_done_callback(_retrieve_exception)

    @property
    def wanted(self) -> bool:
        return self.background or bool(self._waiters)

    @property
    def waiters(self) -> int:
        return len(self._waiters)

    @property
    def charged(self) -> Charged:
        """The pods of which one is charged for each call."""
        return self._waiters

    def timeout_error(self) -> AzureError | CongestedError:
        """Return the error for a waiter whose time is over: the cause of the delay and the time of the next attempt."""
        if self._permit is not None and self._permit.queues:
            pause = self._governor.pause_left
            if pause > 0.0:
                return Paused("IMDS requested a pause", status=429, code="throttled", retry_after=pause)
            return CongestedError(retry_after=1.0)
        if self._last_error is None:
            return Unreachable("no response within the time of the request", code="timeout")
        return self._last_error.again()

    @override
    def retrying(self, error: AzureError) -> None:
        """Implement FetchObserver.retrying."""
        # A copy: an exception that several requests raise would collect the traceback of each.
        self._last_error = error.again()

    @override
    def awaiting(self, silence: AzureError) -> None:
        """Implement FetchObserver.awaiting."""
        if self._last_error is None:
            self._last_error = silence.again()

    @override
    @contextmanager
    def sending(self) -> Iterator[None]:
        """Implement FetchObserver.sending. A failed call without waiters is not retried."""
        self._sending += 1
        try:
            yield
        except AzureError:
            # A fetch may sign in to several tenants, and must end only when none is on its way.
            if self._sending == 1 and not self._continues():
                self._cancel()
            raise
        finally:
            self._sending -= 1

    async def wait(self, pod_key: str, dropped: Callable[["Flight"], None]) -> CachedToken:
        """Return the flight's result on behalf of *pod_key*.

        The flight calls *dropped* if it is cancelled because its last waiter left. Raise the flight's error, or
        Unreachable if the owner cancelled the flight.
        """
        self._waiters.join(pod_key)
        self._dropped = dropped
        try:
            # A waiter that is cancelled must not cancel the fetch of the others.
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            # Both cancellations arrive as CancelledError; only the flight's becomes an error of the request.
            if self.task.cancelled() and current is not None and not current.cancelling():
                raise Unreachable(
                    "the fetch was cancelled: NMI stops, or the pod was removed", code="closing"
                ) from None
            raise
        finally:
            self._waiters.leave(pod_key)
            self._on_waiter_left()

    def _on_waiter_left(self) -> None:
        if self.task.done():
            return
        # A call that was sent is completed, because its token is cached for the next request.
        if not self._sent and not self._sending and not self._continues():
            self._cancel()

    def _cancel(self) -> None:
        self.task.cancel()
        self._dropped(self)

    def _continues(self) -> bool:
        """Return whether the flight has waiters, runs in the background, or may drift."""
        if self.wanted:
            return True
        gone = self._last_error is not None and self._last_error.status == 410
        if gone and self._may_drift():
            self.background = self.drifting = True
        return self.background

    @asynccontextmanager
    async def call_permit(self) -> AsyncIterator[None]:
        """Hold the governor's permit for one call of this flight."""
        # The last waiter may have left during the previous call, which was completed because it was sent.
        if not self._continues():
            raise AbandonedError
        try:
            self._permit = self._governor.token_permit(self._waiters, self._patience)
            async with self._permit:
                self._sent = True
                yield
        except AzureError as error:
            self._last_error = error.again()
            if error.status == 410 and error.retry_after is None:
                self._last_error.retry_after = GONE_RETRY_SECONDS
            breaker = self._governor.breaker
            refusal = breaker.refusal_of_all(self._waiters.pod_keys) if is_failure(error) else None
            if refusal is not None:
                # The breaker would refuse the next attempt: a pause before it would only delay the waiters' error.
                raise refusal from error
            raise
        finally:
            self._sent = False


def _retrieve_exception(task: asyncio.Task[CachedToken]) -> None:
    """Mark the error as retrieved: all waiters may have left before it was raised."""
    if not task.cancelled():
        task.exception()


class Flights:
    """The running flights. Ends with aclose()."""

    def __init__(self) -> None:
        self._flights: dict[tuple[TokenKey, bool], Flight] = {}
        self.tasks: set[asyncio.Task[CachedToken]] = set()
        """The tasks that have not ended, including those of dropped flights."""

    def __len__(self) -> int:
        return len(self._flights)

    def find(self, request: FetchRequest) -> Flight | None:
        """Return the flight that *request* may join, or None. A flight that has just ended cannot be joined."""
        flight = self._flights.get(_join_key(request))
        return flight if flight is not None and not flight.task.done() else None

    def add(self, request: FetchRequest, flight: Flight) -> None:
        """Let requests join *flight* until it ends."""
        key = _join_key(request)
        self._flights[key] = flight
        self.tasks.add(flight.task)

        def ended(task: asyncio.Task[CachedToken]) -> None:
            self.tasks.discard(task)
            # A dropped flight may have a successor with the same key.
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight.task.add_done_callback(ended)

    def drop(self, flight: Flight) -> None:
        """Let no further request join *flight*, which is being cancelled."""
        for key, current in list(self._flights.items()):
            if current is flight:
                del self._flights[key]

    def cancel_pod(self, uid: str) -> None:
        """Cancel the flights whose token is for this pod only."""
        for key, flight in list(self._flights.items()):
            if key[0].pod == uid:
                flight.task.cancel()
                del self._flights[key]

    def let_drift(self, namespace: str) -> bool:
        """Return whether one more flight of *namespace* may continue without waiters.

        At the limit, end a flight of the namespace with the most of them in favour of one that has fewer.
        """
        drifting = Counter(flight.namespace for flight in self._flights.values() if flight.drifting)
        if drifting.total() < DRIFTING_MAX:
            return True
        ((largest, most),) = drifting.most_common(1)
        of_largest = (flight for flight in self._flights.values() if flight.drifting and flight.namespace == largest)
        # A pod waits for the token of a flight with waiters, so only one without waiters may end.
        unwanted = next((flight for flight in of_largest if not flight.waiters), None)
        # With equal numbers two namespaces would end each other's flights.
        if unwanted is None or drifting[namespace] + 1 >= most:
            return False
        unwanted.task.cancel()
        self.drop(unwanted)
        return True

    async def aclose(self) -> None:
        """Cancel every flight and wait until all have ended."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def state(self, now: float) -> list[dict[str, object]]:
        """Return the state for /debug/state: JSON-able, at most STATE_MAX flights, client ids redacted."""
        return [
            {
                "identity": shown_identity(key),
                "resource": key.resource[:RESOURCE_SHOWN],
                "anew": force_refresh,  # a forced refresh; JSON keys are an interface
                "waiters": flight.waiters,
                "age_seconds": round(now - flight.begun),
            }
            for (key, force_refresh), flight in islice(self._flights.items(), STATE_MAX)
        ]


def _join_key(request: FetchRequest) -> tuple[TokenKey, bool]:
    """Return the key of the flight that *request* may join: a forced refresh must skip IMDS's own cache too."""
    return request.key.lasting, request.force_refresh


class RefreshTimers:
    """Timers by token key. Ends with close()."""

    def __init__(self, on_due: Callable[[FetchRequest], None]) -> None:
        """*on_due* is called when the time of a token has come; its timer is removed before."""
        self._on_due = on_due
        self._timers: dict[TokenKey, asyncio.TimerHandle] = {}
        self.closed = False

    def __len__(self) -> int:
        return len(self._timers)

    def __iter__(self) -> Iterator[TokenKey]:
        return iter(self._timers)

    def schedule(self, request: FetchRequest, delay: float) -> None:
        """Start the timer of *request*, *delay* seconds long, in place of an earlier one; none after close()."""
        self.cancel(request.key)
        if not self.closed:
            loop = asyncio.get_running_loop()
            self._timers[request.key] = loop.call_later(max(0.0, delay), self._expire, request)

    def cancel(self, key: TokenKey) -> None:
        """Cancel the timer of *key*, if any."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Cancel every timer and start no more. Idempotent."""
        self.closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _expire(self, request: FetchRequest) -> None:
        self._timers.pop(request.key, None)
        if not self.closed:
            self._on_due(request)


def log_failed_refresh(request: FetchRequest, error: Exception, seconds: float) -> None:
    """Log that the refresh of *request* failed; the cached token is valid for *seconds*."""
    metadata = request.identity.metadata
    log.warning(
        NOT_REFRESHED if request.key.type == IdentityType.USER_ASSIGNED else NOT_REFRESHED_BY_SIGN_IN,
        extra={
            "identity": f"{metadata.namespace}/{metadata.name}",
            "error": str(error),
            "seconds": round(seconds),
        },
    )
