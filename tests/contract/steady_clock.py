"""A clock for candidates of a leader election that does not count the time in which this process is stopped.

A hypervisor may stop the machine for longer than a candidate has for its renewal. By the usual clock the candidate
then gives up its leadership, and rightly so.
"""

import asyncio
import time
from typing import Final, NoReturn

STEP_SECONDS: Final = 0.2
"""The most that counts between two reads, and four times the interval of the reads of `run`."""


class SteadyClock:
    """Monotonic seconds. Run the task `run` while it is in use."""

    def __init__(self) -> None:
        self._read_at = self._seconds = time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic()
        self._seconds += min(now - self._read_at, STEP_SECONDS)
        self._read_at = now
        return self._seconds

    async def run(self) -> NoReturn:
        """Read the clock regularly until cancelled."""
        while True:
            self()
            await asyncio.sleep(STEP_SECONDS / 4)
