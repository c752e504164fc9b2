"""One fetch in the air, and everybody who waits for it.

The flight belongs to the broker, not to the request that started it: a waiter who gives up leaves the others alone. It
is charged, in the governor's queues, to its first waiter that is still there. With no waiter left it is dropped while
it queues or pauses between tries, and finished once its call has been sent: the answer will be wanted. Only one that
IMDS has told 410 (it is updating, for up to 70 seconds) drifts on without waiters: whoever asks next joins it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from nmi.tokens.breaker import is_failure
from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import CongestedError, Governor, Slot
from podidentity.azure.errors import AzureError, Paused, Unreachable
from podidentity.azure.imds import PATIENCE_SECONDS

GONE_RETRY_SECONDS = 10.0
"""What a waiter is told after a 410: by then the flight has tried once more at least."""

REFRESH_ACCOUNT = "(refresh)"
"""Whom the governor charges for a refresh ahead of need: no pod has this key."""


class AbandonedError(Exception):
    """Nobody waits for this flight any more. Never seen outside it."""


class Flight:
    """Started at once; `task` ends with the token or the error. Owned by whoever made it."""

    def __init__(
        self,
        governor: Governor,
        fly: Callable[["Flight"], Awaitable[CachedToken]],
        *,
        name: str,
        background: bool = False,
        begun: float = 0.0,
        may_drift: Callable[[], bool] = lambda: False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """*background*: goes on whether or not anybody waits. *begun*: now, by its owner's clock.

        *may_drift* is asked when it would go on after a 410 without waiters. *patience*: for how many seconds it waits
        when IMDS has asked for a pause.
        """
        self._governor = governor
        self._may_drift = may_drift
        self._patience = patience
        self._waiters: dict[object, str] = {}
        self._queued: Slot | None = None
        self._sent = False
        self._sending = 0
        self._dropped: Callable[[Flight], None] = lambda _flight: None
        self._last_error: AzureError | None = None
        self.begun = begun
        self.background = background
        self.drifting = False
        """Whether it goes on only because of a 410."""
        self.task: asyncio.Task[CachedToken] = asyncio.create_task(self._run(fly), name=name)
        self.task.add_done_callback(_seen)

    @property
    def wanted(self) -> bool:
        return self.background or bool(self._waiters)

    @property
    def waiters(self) -> int:
        return len(self._waiters)

    def late(self) -> AzureError | CongestedError:
        """What to tell a waiter whose time is over before the flight is: why it is not, and when to ask again."""
        if self._queued is not None:
            pause = self._governor.pause_left
            if pause > 0.0:
                return Paused("IMDS has asked for a pause", status=429, code="throttled", retry_after=pause)
            return CongestedError(retry_after=1.0)
        if self._last_error is None:
            return Unreachable("no answer in the time that the request had left", code="timeout")
        return self._last_error.again()

    def met(self, error: AzureError) -> None:
        """As Course.met."""
        self._last_error = error.again()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """As Course.sending. One that has failed is not tried again if nobody waits any more."""
        self._sending += 1
        try:
            yield
        except AzureError:
            if self._sending == 1 and not self._goes_on():
                self._end()
            raise
        finally:
            self._sending -= 1

    async def wait(self, pod_key: str, dropped: Callable[["Flight"], None]) -> CachedToken:
        """The flight's result, waited for on behalf of *pod_key*.

        *dropped* is called if the last waiter's leaving ends the flight. Raises what the flight raised; Unreachable if
        its owner has ended it.
        """
        waiter = object()
        self._waiters[waiter] = pod_key
        self._dropped = dropped
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.task.cancelled() and current is not None and not current.cancelling():
                raise Unreachable("the fetch was ended: NMI stops, or the pod is gone", code="closing") from None
            raise
        finally:
            del self._waiters[waiter]
            self._left()

    def _left(self) -> None:
        if self.task.done():
            return
        if self._waiters and self._queued is not None:
            self._queued.recharge(self._account())
        if not self._sent and not self._sending and not self._goes_on():
            self._end()

    def _end(self) -> None:
        self.task.cancel()
        self._dropped(self)

    def _goes_on(self) -> bool:
        """Whether it is wanted, or may drift."""
        if self.wanted:
            return True
        gone = self._last_error is not None and self._last_error.status == 410
        if gone and self._may_drift():
            self.background = self.drifting = True
        return self.background

    def _account(self) -> str:
        return next(iter(self._waiters.values()), REFRESH_ACCOUNT)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The governor's slot for one call of this flight."""
        if not self._goes_on():
            raise AbandonedError
        self._queued = self._governor.token_slot(self._account(), self._patience)
        try:
            async with self._queued:
                self._queued, self._sent = None, True
                yield
        except AzureError as error:
            self._last_error = error.again()
            if error.status == 410 and error.retry_after is None:
                self._last_error.retry_after = GONE_RETRY_SECONDS
            refusal = self._governor.breaker.refusal(self._account()) if is_failure(error) else None
            if refusal is not None:
                # The next try would not be sent: no use in pausing before finding out.
                raise refusal from error
            raise
        finally:
            self._queued, self._sent = None, False

    async def _run(self, fly: Callable[["Flight"], Awaitable[CachedToken]]) -> CachedToken:
        return await fly(self)


def _seen(task: asyncio.Task[CachedToken]) -> None:
    """Every waiter may have gone: the error counts as seen."""
    if not task.cancelled():
        task.exception()
