"""A clock for candidates of a leader election that does not count the time in which the server does not respond.

A hypervisor may stop the machine for longer than a candidate has for its renewal, and a busy machine may delay the
server for as long. By the usual clock the candidate then gives up its leadership, and rightly so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

STEP_SECONDS: Final = 0.2
"""The most that counts after a response of the server, and four times the interval of the requests of `run`."""


class SteadyClock:
    """Monotonic seconds. Run the task `run` while it is in use."""

    def __init__(self) -> None:
        self._read_at = self._seconds = time.monotonic()
        self._most = self._seconds + STEP_SECONDS

    def __call__(self) -> float:
        now = time.monotonic()
        self._seconds = min(self._seconds + now - self._read_at, self._most)
        self._read_at = now
        return self._seconds

    async def run(self, request: Callable[[], Awaitable[object]]) -> NoReturn:
        """Send the *request* regularly until cancelled. The clock goes on after each response."""
        while True:
            await request()
            self._most = self() + STEP_SECONDS
            await asyncio.sleep(STEP_SECONDS / 4)
