"""Pauses between attempts."""

from collections.abc import Callable


class Backoff:
    """Exponential backoff with full jitter: random pauses below a ceiling that doubles with each failure.

    A thousand nodes that lost the same API server at the same time retry spread over the whole ceiling.
    """

    def __init__(self, random: Callable[[], float], *, first_seconds: float = 1.0, most_seconds: float = 30.0) -> None:
        self._random = random
        self._first = first_seconds
        self._most = most_seconds
        self._ceiling = first_seconds

    def next(self) -> float:
        """Return seconds to wait now, and double the ceiling."""
        pause = self._ceiling * self._random()
        self._ceiling = min(self._most, self._ceiling * 2)
        return pause

    def reset(self) -> None:
        """Reset the ceiling after a success."""
        self._ceiling = self._first
