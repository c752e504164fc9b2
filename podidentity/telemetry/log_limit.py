"""Limit of log lines that a lasting condition, or other programs, can cause without end.

A `TokenBucket` only limits a rate. A `LogLimit` limits the lines of one message: it shares its rate between groups of
lines, and it reports that lines are left out.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from podidentity.telemetry.token_bucket import SharedTokenBucket

log = logging.getLogger(__name__)

LINE_SECONDS: Final = 60.0


class LogLimit:
    """Permission for *burst* log lines immediately and *per_second* in the long run, shared by all holders of the
    limit. The default is one line per minute, for a lasting condition such as an unavailable API server."""

    def __init__(
        self,
        *,
        burst: float = 1.0,
        per_second: float = 1 / LINE_SECONDS,
        share: float = 1.0,
        omission: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*share*: the part of the limit for one group of lines. *omission*: a warning that replaces the first line
        that is left out; it names the place where all are counted."""
        self._bucket = SharedTokenBucket(per_second, burst, share, clock)
        self._omission = omission
        self._omitted = 0
        self.left_out = 0
        """Number of lines that were left out between the last two allowed ones."""

    def allows(self, group: str = "") -> bool:
        """Return whether a line of *group* (a namespace, for example) may be logged now; True counts the line."""
        if self._bucket.take(group):
            self.left_out, self._omitted = self._omitted, 0
            return True
        if self._omission and not self._omitted:
            log.warning(self._omission)
        self._omitted += 1
        return False
