"""Long work on the event loop, with pauses for other tasks."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

SLICE_SECONDS: Final = 0.002
"""Time for work before the event loop runs other tasks."""


async def paced(steps: Iterable[object], clock: Callable[[], float] = time.monotonic) -> None:
    """Exhaust *steps*, whose iteration does the work, with a pause for the event loop after each slice of work."""
    until = clock() + SLICE_SECONDS
    for _ in steps:
        if clock() >= until:
            await asyncio.sleep(0)
            until = clock() + SLICE_SECONDS
