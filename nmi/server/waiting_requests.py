"""The time limit of requests that wait for their answer.

It is the same for all of them, so that they expire in the order in which they began to wait, and one timer is enough
for all of them.
"""

import asyncio
from typing import Protocol


class WaitingRequest(Protocol):
    """The interface of `nmi.server.general.GeneralLane` that the time limit uses."""

    def expire(self) -> None:
        """Answer the request now, because its time has ended. It must not raise."""


class WaitingRequests:
    """The waiting requests in the order in which they expire, each *seconds* after `add`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expire_at: dict[WaitingRequest, float] = {}
        """The loop's times."""
        self._timer: asyncio.TimerHandle | None = None
        """Set for the oldest request, which may have been answered since."""

    def __len__(self) -> int:
        return len(self._expire_at)

    def add(self, request: WaitingRequest) -> None:
        """Expire *request* unless it is discarded in time."""
        loop = asyncio.get_running_loop()
        at = self._expire_at[request] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(at, self._expire_late)

    def discard(self, request: WaitingRequest) -> None:
        """Remove *request*, which has its answer. Idempotent."""
        self._expire_at.pop(request, None)

    def expire_all(self) -> None:
        """Expire every waiting request now."""
        late, self._expire_at = self._expire_at, {}
        for request in late:
            request.expire()

    def close(self) -> None:
        """Stop the timer. The owner cancels the waiting requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire_late(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._expire_at:
            request, at = next(iter(self._expire_at.items()))
            if at > now:
                self._timer = loop.call_at(at, self._expire_late)
                return
            del self._expire_at[request]
            request.expire()
