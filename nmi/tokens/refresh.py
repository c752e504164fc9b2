"""Refreshes of cached tokens: one timer per token, which starts the next refresh, and the log line of a failed one."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final

from nmi.tokens.source import FetchRequest, TokenKey
from podidentity.resources import IdentityType

log = logging.getLogger(__name__)

NOT_REFRESHED: Final = "token refresh failed, the cached token is still served; check that IMDS responds on this node"
NOT_REFRESHED_BY_SIGN_IN: Final = (
    "token refresh failed, the cached token is still served; check what the error names, and that the sign-in endpoint "
    "and the API server respond to this node"
)


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
