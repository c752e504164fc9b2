"""Limit of log lines about a lasting condition, such as an unavailable API server."""

import time
from collections.abc import Callable
from typing import Final

LINE_SECONDS: Final = 60.0


class LogLimit:
    """Permission for one log line per *seconds*, shared by all holders of the limit."""

    def __init__(self, seconds: float = LINE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next = float("-inf")

    def allows(self) -> bool:
        """Return whether a line may be logged now; True counts the line."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
