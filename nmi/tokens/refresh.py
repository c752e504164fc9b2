"""Refresh timers: one timer per cached token, which starts the next refresh."""

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nmi.tokens.source import FetchRequest, TokenKey


class KeyedRequest(NamedTuple):
    """A fetch request with the cache key of its token."""

    key: TokenKey
    fetch: FetchRequest


class RefreshTimers:
    """Timers by token key. Ends with close()."""

    def __init__(self, on_due: Callable[[KeyedRequest], None]) -> None:
        """*on_due* is called when the time of a token has come; its timer is gone then."""
        self._on_due = on_due
        self._timers: dict[TokenKey, asyncio.TimerHandle] = {}
        self.closed = False

    def __len__(self) -> int:
        return len(self._timers)

    def __iter__(self) -> Iterator[TokenKey]:
        return iter(self._timers)

    def schedule(self, request: KeyedRequest, delay: float) -> None:
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

    def _expire(self, request: KeyedRequest) -> None:
        self._timers.pop(request.key, None)
        if not self.closed:
            self._on_due(request)
