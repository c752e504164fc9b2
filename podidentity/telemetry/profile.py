"""CPU profile of this process: stacks sampled while it uses the processor, with counts, one per line.

The format is that of flame graph programs ("collapsed" stacks: `outermost;…;innermost count`). A signal takes the
samples, because a thread would see the main thread only where it releases the interpreter's lock. Code outside of the
interpreter (the compiled data plane) counts for the next Python function.
"""

import asyncio
import signal
from collections import Counter
from pathlib import PurePath
from types import FrameType
from typing import Final

EVERY_SECONDS: Final = 0.005
"""Sampling interval in processor time."""
STACKS_MAX: Final = 2000
"""Maximum number of stacks in the output, most frequent first."""


class Profiler:
    """Sampling profiler, one profile at a time; further requests wait. Must be used in the main thread."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def sample(self, seconds: float) -> str:
        """Return the main thread's stacks during *seconds*, most frequent first. Cancellation ends it early and
        cleanly.
        """
        async with self._lock:
            counts: Counter[str] = Counter()

            def take(_number: int, frame: FrameType | None) -> None:
                counts[_stack(frame)] += 1

            before = signal.signal(signal.SIGPROF, take)
            signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)
            try:
                await asyncio.sleep(seconds)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                # A last signal may be pending, and the default action would end the process.
                signal.signal(signal.SIGPROF, signal.SIG_IGN if before == signal.SIG_DFL else before)
            return "".join(f"{stack} {count}\n" for stack, count in counts.most_common(STACKS_MAX))


def _stack(frame: FrameType | None) -> str:
    names: list[str] = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{PurePath(code.co_filename).stem}.{code.co_qualname}")
        frame = frame.f_back
    return ";".join(reversed(names))
