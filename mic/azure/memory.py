"""What one process remembers of one VM or scale set between rounds: the last answer, waits, and refused identities.

Nothing here is needed for correctness: a process that begins with an empty memory looks at Azure again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from mic.azure.errors import AzureError, Refused
from mic.azure.identities import MOST_IN_ONE_UPDATE, HostIdentities

BARRED_FIRST_SECONDS: Final = 30.0
BARRED_MOST_SECONDS: Final = 30 * 60.0
"""A role that is granted takes effect within minutes; a mistake that stays costs one call in half an hour."""

WAIT_FIRST_SECONDS: Final = 0.5
WAIT_MOST_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Barred:
    until: float
    seconds: float
    reason: str


@dataclass(slots=True)
class Waits:
    """When the next call of one kind to one host may be made: after Retry-After, else after a growing pause."""

    until: float = 0.0
    refusal: str = ""
    """How Azure refused the last call, where repeating it alone will not help; the same words each time."""
    _failures: int = 0

    def failed(self, error: AzureError, now: float) -> None:
        pause = min(WAIT_FIRST_SECONDS * 2**self._failures, WAIT_MOST_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self.until = now + max(pause, error.retry_after or 0.0)
        told = " ".join(filter(None, (str(error.status or ""), error.code)))
        self.refusal = (told or "no token") if isinstance(error, Refused) else ""

    def succeeded(self) -> None:
        self.until, self.refusal, self._failures = 0.0, "", 0


@dataclass(slots=True)
class HostMemory:
    """One host's. *clock* is monotonic seconds, as are all times in here."""

    clock: Callable[[], float]
    known: HostIdentities | None = None
    """Azure's last answer; None before the first and after anything that leaves the host's state open."""
    changed: bool = False
    """Whether this process has changed the host: before that, an operation of another leader may still be running."""
    reads: Waits = field(default_factory=Waits)
    writes: Waits = field(default_factory=Waits)
    most_adds: int = MOST_IN_ONE_UPDATE
    """Halved when Azure refuses a batch without naming anybody, until the one that it means stands alone."""
    _barred: dict[str, _Barred] = field(default_factory=dict)

    def bar(self, keys: Iterable[str], reason: str) -> None:
        """Do not try these identities again for a while, longer each time."""
        now = self.clock()
        for key in keys:
            before = self._barred.get(key)
            seconds = min(before.seconds * 2, BARRED_MOST_SECONDS) if before else BARRED_FIRST_SECONDS
            self._barred[key] = _Barred(now + seconds, seconds, reason)

    def forgive(self, keys: Iterable[str]) -> bool:
        """Try these again as if nothing had been; whether any of them was barred."""
        return sum(self._barred.pop(key, None) is not None for key in keys) > 0

    def barred(self) -> dict[str, str]:
        """The identities not to be tried now, and why. One whose time is up keeps its count until it succeeds."""
        now = self.clock()
        return {key: each.reason for key, each in self._barred.items() if each.until > now}

    def next_trial(self, wanted: Iterable[str]) -> float | None:
        """Seconds until the first of the *wanted* identities is to be tried again; None where none is barred."""
        now = self.clock()
        left = [self._barred[key].until - now for key in wanted if key in self._barred]
        return max(0.0, min(left)) if left else None
