"""Detection of a machine that was suspended, by the clock that continues while the machine sleeps.

The monotonic clock stands still in that time. Deadlines that are kept by it, such as the expiry of a cached token, then
lie too far in the future.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NoReturn

NOTICED_SECONDS: Final = 60.0
"""Shorter sleeps have no effect: tokens are valid for hours, and NMI renews them minutes before they expire."""
CHECK_SECONDS: Final = 5.0
"""Between two checks. Each one wakes a program that has nothing else to do."""


class MachineSleptError(Exception):
    """The machine was suspended, so the program must drop its cached tokens. The text is one line."""


def boot_clock() -> float:
    """Return the seconds since the machine started, including suspensions."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class MachineSleep:
    """The time in which the machine slept. *boot* continues during a sleep, *monotonic* does not."""

    def __init__(
        self, *, boot: Callable[[], float] = boot_clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._boot = boot
        self._monotonic = monotonic
        self._seen = boot() - monotonic()

    def since_last_call(self) -> float:
        """Return the seconds of sleep since the last call that returned some; 0 for less than a minute."""
        total = self._boot() - self._monotonic()
        seconds = total - self._seen
        # Not taken as seen, so that several short sleeps add up.
        if seconds < NOTICED_SECONDS:
            return 0.0
        self._seen = total
        return seconds


async def end_after_sleep(sleep: MachineSleep) -> NoReturn:
    """Raise MachineSleptError within CHECK_SECONDS after a sleep of the machine."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if seconds := sleep.since_last_call():
            raise MachineSleptError(
                f"this machine was suspended for {seconds:.0f} s, and cached tokens can have expired unnoticed; the "
                "program ends, so that it starts again without them (by its pod's restartPolicy; elsewhere, start it)"
            )
