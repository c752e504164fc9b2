"""Waiting until MIC is idle. MIC always compares hosts with Azure, so an idle MIC uses some CPU time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

QUIET_SHARE: Final = 0.05
"""The share of one core during a second, without the reads of hosts, below which MIC is idle."""
READ_CPU_SECONDS: Final = 0.004
"""CPU time that is subtracted for each read of a host: as much as MIC used on an idle VM, mostly for wake-ups, before
its reads became cheaper."""
LIMIT_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Quiet:
    """The end of the wait."""

    since: float
    """The start of the first idle second, or of the last second; by the clock."""
    share: float
    """The share of one core during that second, with the reads."""
    reached: bool
    """Whether MIC became idle within the limit."""


async def until_quiet(
    cpu_seconds: Callable[[], float],
    reads: Callable[[], int],
    *,
    limit_seconds: float = LIMIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Quiet:
    """Wait for an idle second, at most *limit_seconds*. *cpu_seconds* and *reads* return MIC's CPU time and the number
    of its reads of hosts until now."""
    began = clock()
    while True:
        since, cpu, read = clock(), cpu_seconds(), reads()
        await sleep(1.0)
        took = clock() - since
        used = cpu_seconds() - cpu
        reached = used - READ_CPU_SECONDS * (reads() - read) < QUIET_SHARE * took
        if reached or clock() - began >= limit_seconds:
            return Quiet(since, used / took, reached)
