"""Single flight: one fetch that several requests share.

The broker owns the flight, not the request that started it: a waiter that gives up does not affect the others. Each
call is charged to the waiting pod whose turn comes first. Without waiters, the flight is cancelled while it
is queued or pauses between attempts, but a call that was sent is completed because its token will be used. Only a
flight that received 410 from IMDS (which updates itself for up to 70 seconds) continues without waiters: the next
request joins it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from nmi.tokens.breaker import is_failure
from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import CallPermit, CongestedError, Governor
from nmi.tokens.waiters import Charged, Waiters
from podidentity.azure.errors import AzureError, Paused, Unreachable
from podidentity.azure.imds import PATIENCE_SECONDS

GONE_RETRY_SECONDS = 10.0
"""The Retry-After of a 410: by then the flight has made at least one more attempt."""


class AbandonedError(Exception):
    """The flight has no waiters. Never raised to a caller."""


class Flight:
    """A fetch that starts with its constructor; `task` ends with the token or the error. Owned by its creator."""

    def __init__(
        self,
        governor: Governor,
        fetch: Callable[["Flight"], Awaitable[CachedToken]],
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
        self.task: asyncio.Task[CachedToken] = asyncio.create_task(self._run(fetch), name=name)
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

    def retrying(self, error: AzureError) -> None:
        """Implement FetchObserver.retrying."""
        self._last_error = error.again()

    def awaiting(self, silence: AzureError) -> None:
        """Implement FetchObserver.awaiting."""
        if self._last_error is None:
            self._last_error = silence.again()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Implement FetchObserver.sending. A failed call without waiters is not retried."""
        self._sending += 1
        try:
            yield
        except AzureError:
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
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
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

    async def _run(self, fetch: Callable[["Flight"], Awaitable[CachedToken]]) -> CachedToken:
        return await fetch(self)


def _retrieve_exception(task: asyncio.Task[CachedToken]) -> None:
    """Mark the error as retrieved: all waiters may have left before it was raised."""
    if not task.cancelled():
        task.exception()
