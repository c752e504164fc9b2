"""The times at which programs of the sandbox that have ended start again: with a back-off, like a kubelet's. No I/O."""

from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
HEALTHY_SECONDS: Final = 60.0
"""The time after which a program that runs counts as healthy, so that its next end has no longer delay."""


class Restarts:
    """The delays of one program. *clock* measures seconds and need not advance while the machine is suspended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._delay = 0.0
        self._started = clock()
        self._due: float | None = None

    def ended(self) -> float | None:
        """Record that the program has ended. Return the seconds until its start; None if that is recorded already."""
        if self._due is not None:
            return None
        now = self._clock()
        healthy = now - self._started >= HEALTHY_SECONDS
        self._delay = FIRST_SECONDS if healthy or not self._delay else min(2 * self._delay, LONGEST_SECONDS)
        self._due = now + self._delay
        return self._delay

    def is_due(self) -> bool:
        """Return whether the program must start now."""
        return self._due is not None and self._clock() >= self._due

    def started(self) -> None:
        """Record that the program runs again."""
        self._due, self._started = None, self._clock()
