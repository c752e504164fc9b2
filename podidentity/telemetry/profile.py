"""Where this process spends its time: stacks sampled while it uses the processor, counted, one line each.

The form is that of flame graph programs ("collapsed" stacks: `outermost;…;innermost count`). Sampled by a signal, since
a thread would only ever see the main thread where it gives up the interpreter's lock. What runs without the interpreter
(the compiled data plane) counts for the Python function that comes next.
"""

import asyncio
import signal
from collections import Counter
from pathlib import PurePath
from types import FrameType
from typing import Final

EVERY_SECONDS: Final = 0.005
"""Of processor time."""
STACKS_MAX: Final = 2000
"""Different stacks told of, the most frequent first."""


class Profiler:
    """Takes one profile at a time: who asks for another one waits for its turn. Lives in the main thread."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def sample(self, seconds: float) -> str:
        """The main thread's stacks during *seconds*, most frequent first. Ends early, and cleanly, when cancelled."""
        async with self._turn:
            counts: Counter[str] = Counter()

            def take(_number: int, frame: FrameType | None) -> None:
                counts[_stack(frame)] += 1

            before = signal.signal(signal.SIGPROF, take)
            signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)
            try:
                await asyncio.sleep(seconds)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                # A last signal may be on its way, and the default would end the process.
                signal.signal(signal.SIGPROF, signal.SIG_IGN if before == signal.SIG_DFL else before)
            return "".join(f"{stack} {count}\n" for stack, count in counts.most_common(STACKS_MAX))


def _stack(frame: FrameType | None) -> str:
    names: list[str] = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{PurePath(code.co_filename).stem}.{code.co_qualname}")
        frame = frame.f_back
    return ";".join(reversed(names))
