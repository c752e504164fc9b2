"""How long to wait before trying again."""

from collections.abc import Callable


class Backoff:
    """Pauses between nothing and a ceiling that doubles with each failure ("full jitter").

    A thousand nodes that lost the same API server at the same moment come back spread over the whole ceiling.
    """

    def __init__(self, random: Callable[[], float], *, first_seconds: float = 1.0, most_seconds: float = 30.0) -> None:
        self._random = random
        self._first = first_seconds
        self._most = most_seconds
        self._ceiling = first_seconds

    def next(self) -> float:
        """Seconds to wait now; the next wait may be twice as long."""
        pause = self._ceiling * self._random()
        self._ceiling = min(self._most, self._ceiling * 2)
        return pause

    def reset(self) -> None:
        """Something worked: begin small again."""
        self._ceiling = self._first
