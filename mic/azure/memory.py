"""What one process remembers of one VM or scale set between rounds: the last answer, waits, and refused identities.

Nothing here is needed for correctness: a process that begins with an empty memory looks at Azure again.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from mic.azure.errors import AzureError
from mic.azure.identities import GONE, MOST_IN_ONE_UPDATE, HostIdentities

QUARANTINE_FIRST_SECONDS: Final = 30.0
QUARANTINE_MOST_SECONDS: Final = 30 * 60.0
"""A role that is granted takes effect within minutes; a mistake that stays costs one call in half an hour."""

WAIT_FIRST_SECONDS: Final = 0.5
WAIT_MOST_SECONDS: Final = 60.0
DELAY_SECONDS: Final = 60.0
"""Of failures alone, after which whoever waits for an identity is told: what passes sooner is nobody's matter."""

GONE_SURE_SECONDS: Final = 60.0
"""From the first answer that there is no such host to one that is believed: a 404 that passes must revoke nobody."""
GONE_FIRST_SECONDS: Final = 5.0
"""To the second such answer, and then twice as long each time: a VM that is new may not be known everywhere yet."""
POLL_FIRST_SECONDS: Final = 0.2
POLL_MOST_SECONDS: Final = 5.0
DOUBT_SECONDS: Final = 120.0
"""An operation that lasts longer is taken for one that is not about identities, as a scale set's growing is."""
CULPRITS_MOST: Final = 2
"""Found one after the other in one batch; after so many it is taken for bad as a whole and tried one by one."""


@dataclass(slots=True)
class _Quarantine:
    until: float
    seconds: float
    reason: str
    adding: bool
    """Whether it was to be put on the host, or to be taken off."""


@dataclass(slots=True)
class Waits:
    """When the next call of one kind to one host may be made: after Retry-After, else after a growing pause."""

    until: float = 0.0
    refusal: str = ""
    """Why Azure refused the last call, where repeating it alone will not help; the same words each time."""
    _failures: int = 0
    _failing_since: float | None = None

    def failed(self, error: AzureError, now: float, refusal: str) -> None:
        self._failing_since = now if self._failing_since is None else self._failing_since
        pause = min(WAIT_FIRST_SECONDS * 2**self._failures, WAIT_MOST_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self.until = now + max(pause, error.retry_after or 0.0)
        self.refusal = refusal

    def succeeded(self) -> None:
        self.until, self.refusal, self._failures, self._failing_since = 0.0, "", 0, None

    def delayed(self, now: float) -> bool:
        """Whether calls have failed for so long that people should know."""
        return self._failing_since is not None and now - self._failing_since >= DELAY_SECONDS


@dataclass(slots=True)
class HostMemory:
    """One host's. *clock* is monotonic seconds, as are all times in here."""

    clock: Callable[[], float]
    known: HostIdentities | None = None
    """Azure's last answer; None before the first and after anything that leaves the host's state open."""
    learned_at: float = float("-inf")
    """When Azure answered last."""
    reads: Waits = field(default_factory=Waits)
    writes: Waits = field(default_factory=Waits)
    most: int = MOST_IN_ONE_UPDATE
    """Halved when Azure refuses a batch without naming anybody, until the one that it means stands alone."""
    missing_since: float | None = None
    """When Azure first answered that there is no such host, if it has not shown one since."""
    over: bool = False
    """Whether no operation of ours can be running any more, nor one of an earlier leader."""
    _steady: frozenset[str] = frozenset()
    """What was there when no operation ran, or when it had run for too long to be about identities."""
    _busy_since: float | None = None
    _polls: int = 0
    _undone: bool = False
    """Whether the last update that Azure took had no effect."""
    _suspects: int = 0
    """How many of the last refused batch may still be the one that is meant."""
    _culprits: int = 0
    """Found one by one since the last update that Azure took."""
    _quarantined: dict[str, _Quarantine] = field(default_factory=dict)
    _idle_since: dict[str, float] = field(default_factory=dict)

    def learn(self, found: HostIdentities, look_seconds: float) -> None:
        """Azure has answered. That the host is gone is believed when it is said for GONE_SURE_SECONDS, and then asked
        again every *look_seconds*."""
        self.reads.succeeded()
        self.learned_at = self.clock()
        if not found.gone:
            self.missing_since = None
            self._rest(found)
            self.known = replace(found, steady=self._steady) if found.updating else found
            if not found.updating:  # until its end, what an operation is to lead to is shown, and it may fail
                self.end_quarantine(
                    [key for key, each in self._quarantined.items() if (key in found.attached) is each.adding]
                )
            return
        now = self.clock()
        if self.missing_since is None:
            self.missing_since = now
        said = now - self.missing_since
        if said >= GONE_SURE_SECONDS:
            self.known, pause = GONE, look_seconds
        else:
            self.known, pause = None, min(max(GONE_FIRST_SECONDS, said), GONE_SURE_SECONDS - said)
        self.reads.until = now + pause

    def _rest(self, found: HostIdentities) -> None:
        now = self.clock()
        if not found.updating:
            self._busy_since, self._polls = None, 0
        elif self._busy_since is None:
            self._busy_since = now
        if self._busy_since is None or now - self._busy_since >= DOUBT_SECONDS:
            self.over, self._steady = True, frozenset(found.attached)

    @property
    def doubtful(self) -> bool:
        """Whether an operation runs that may be ours, or an earlier leader's."""
        return self.known is not None and self.known.updating and not self.over

    def next_poll(self) -> float:
        """Seconds until a running operation is asked for again; more each time."""
        pause = min(POLL_FIRST_SECONDS * 1.5**self._polls, POLL_MOST_SECONDS)
        self._polls = min(self._polls + 1, 16)
        return pause

    def unanswered(self, error: AzureError, refusal: str) -> None:
        """Azure did not say what is on the host. A host that was gone is taken for gone until it is seen."""
        self.reads.failed(error, self.clock(), refusal)
        if self.known is None or not self.known.gone:
            self.known = None

    def delayed(self) -> bool:
        """Whether nothing could be asked or changed for so long that people should know."""
        now = self.clock()
        return self.reads.delayed(now) or self.writes.delayed(now)

    def refused_together(self, keys: Collection[str]) -> None:
        """Azure took none of these, and did not say whom it means: next a part of them."""
        self._suspects = len(keys)
        self.most = max(1, len(keys) // 2)

    def refused_alone(self, key: str, reason: str, *, adding: bool) -> None:
        """It was this one."""
        self.quarantine(key, reason, adding=adding)
        self._suspects = 0
        self._culprits += 1
        self.most = MOST_IN_ONE_UPDATE if self._culprits < CULPRITS_MOST else 1

    def had_no_effect(self, error: AzureError) -> None:
        """Azure took an update and does not show it. What a second writer undid is made good at once; what is undone
        again and again, after growing pauses."""
        if self._undone:
            self.writes.failed(error, self.clock(), "")
        self._undone = True

    def accepted(self, keys: Collection[str]) -> None:
        """Azure took an update of these. The rest of a refused batch has the one that is meant."""
        self.writes.succeeded()
        self._undone = False
        self.end_quarantine(keys)
        self._culprits = 0
        self._suspects = max(0, self._suspects - len(keys))
        self.most = max(1, self._suspects // 2) if self._suspects else MOST_IN_ONE_UPDATE

    def quarantine(self, key: str, reason: str, *, adding: bool = True) -> None:
        """Do not try this identity again for a while, longer each time. Those that nobody has tried for long after
        their time are forgotten."""
        now = self.clock()
        for each in [
            each for each, quarantined in self._quarantined.items() if quarantined.until < now - QUARANTINE_MOST_SECONDS
        ]:
            del self._quarantined[each]
        before = self._quarantined.get(key)
        seconds = min(before.seconds * 2, QUARANTINE_MOST_SECONDS) if before else QUARANTINE_FIRST_SECONDS
        self._quarantined[key] = _Quarantine(now + seconds, seconds, reason, adding)

    def end_quarantine(self, keys: Iterable[str]) -> bool:
        """Try these again as if nothing had been; whether any of them was barred."""
        return sum(self._quarantined.pop(key, None) is not None for key in keys) > 0

    def retry_now(self, key: str) -> bool:
        """Try this one again now, though apart from others, as it may be as bad as before; whether it was barred."""
        quarantined = self._quarantined.get(key)
        if quarantined is not None:
            quarantined.until = self.clock()
        return quarantined is not None

    def quarantined(self) -> dict[str, str]:
        """The identities not to be tried now, and why. One whose time is up keeps its count until it succeeds."""
        now = self.clock()
        return {key: each.reason for key, each in self._quarantined.items() if each.until > now}

    def retry_due(self) -> set[str]:
        """The identities that were refused and may be tried again now."""
        now = self.clock()
        return {key for key, each in self._quarantined.items() if each.until <= now}

    def was_refused(self, key: str) -> bool:
        """Whether Azure refused this identity when it was tried last, be its time up or not."""
        return key in self._quarantined

    def next_retry(self, key: str) -> float | None:
        """Seconds until this identity is to be tried again; None where it is not barred."""
        quarantined = self._quarantined.get(key)
        return None if quarantined is None else max(0.0, quarantined.until - self.clock())

    def warm(self, idle: Iterable[str], grace_seconds: float) -> dict[str, float]:
        """Which of the *idle* identities may not be taken off yet, and for how many seconds. Whatever is not idle now
        has its whole grace again the next time."""
        if grace_seconds <= 0:
            return {}
        now = self.clock()
        self._idle_since = {key: self._idle_since.get(key, now) for key in idle}
        left = {key: since + grace_seconds - now for key, since in self._idle_since.items()}
        return {key: seconds for key, seconds in left.items() if seconds > 0}

    def state(self) -> dict[str, object]:
        """What is out of the ordinary here, for a person to read; empty where nothing is. Seconds are from now."""
        now = self.clock()
        noted: dict[str, object] = {
            "quarantined": {key: round(each.until - now, 1) for key, each in self._quarantined.items()},
            "kept warm": len(self._idle_since),
            "no read for": round(max(0.0, self.reads.until - now), 1),
            "no write for": round(max(0.0, self.writes.until - now), 1),
            "refused": self.reads.refusal or self.writes.refusal,
            "unknown to Azure for": round(now - self.missing_since, 1) if self.missing_since is not None else 0,
            "updating": self.known is not None and self.known.updating,
        }
        return {name: value for name, value in noted.items() if value}
