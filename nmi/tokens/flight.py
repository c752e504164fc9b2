"""One fetch in the air, and everybody who waits for it.

The flight belongs to the broker, not to the request that started it: a waiter who gives up leaves the others alone. It
is charged, in the governor's queues, to its first waiter that is still there. With no waiter left it is dropped while
it queues or pauses between tries, and finished once its call has been sent: the answer will be wanted.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import Governor, Slot
from podidentity.azure.errors import Unreachable

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
    ) -> None:
        """*background*: goes on whether or not anybody waits."""
        self._governor = governor
        self._waiters: dict[object, str] = {}
        self._queued: Slot | None = None
        self._sent = False
        self.background = background
        self.task: asyncio.Task[CachedToken] = asyncio.create_task(self._run(fly), name=name)
        self.task.add_done_callback(_seen)

    @property
    def wanted(self) -> bool:
        return self.background or bool(self._waiters)

    async def wait(self, pod_key: str, dropped: Callable[["Flight"], None]) -> CachedToken:
        """The flight's result, waited for on behalf of *pod_key*.

        *dropped* is called if the last waiter's leaving ends the flight. Raises what the flight raised; Unreachable if
        its owner has ended it.
        """
        waiter = object()
        self._waiters[waiter] = pod_key
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.task.cancelled() and current is not None and not current.cancelling():
                raise Unreachable("the node daemon is shutting down", code="closing") from None
            raise
        finally:
            del self._waiters[waiter]
            self._left(dropped)

    def _left(self, dropped: Callable[["Flight"], None]) -> None:
        if self.task.done():
            return
        if self._waiters and self._queued is not None:
            self._queued.recharge(self._account())
        if not self.wanted and not self._sent:
            self.task.cancel()
            dropped(self)

    def _account(self) -> str:
        return next(iter(self._waiters.values()), REFRESH_ACCOUNT)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The governor's slot for one call of this flight."""
        if not self.wanted:
            raise AbandonedError
        self._queued = self._governor.slot(self._account())
        try:
            async with self._queued:
                self._queued, self._sent = None, True
                yield
        finally:
            self._queued, self._sent = None, False

    async def _run(self, fly: Callable[["Flight"], Awaitable[CachedToken]]) -> CachedToken:
        return await fly(self)


def _seen(task: asyncio.Task[CachedToken]) -> None:
    """Every waiter may have gone: the error counts as seen."""
    if not task.cancelled():
        task.exception()
