"""State of one VM or scale set between reconcile passes: the last response, pauses, and quarantined identities.

Correctness does not depend on it: a process with an empty memory reads Azure again.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from mic.azure.errors import AzureError, Unreachable
from mic.azure.identities import GONE, MOST_IN_ONE_UPDATE, HostIdentities

QUARANTINE_FIRST_SECONDS: Final = 30.0
QUARANTINE_MOST_SECONDS: Final = 30 * 60.0
"""A granted role takes effect within minutes; a permanent mistake costs one call per half hour."""

WAIT_FIRST_SECONDS: Final = 0.5
WAIT_MOST_SECONDS: Final = 60.0
DELAY_SECONDS: Final = 60.0
"""Duration of failures after which the waiting pods get an Event; shorter failures are not reported."""

CAUSE_SECONDS: Final = 300.0
"""How long the reported cause of failures stays when they alternate."""
NO_RESPONSE: Final = "no response"
NO_EFFECT: Final = "updates have no effect"

GONE_SURE_SECONDS: Final = 60.0
"""Time between the first 404 for a host and the one that MIC accepts: a temporary 404 must revoke nothing."""
GONE_FIRST_SECONDS: Final = 5.0
"""Pause before the second read, doubled each time: Azure may not know a new VM everywhere yet."""
POLL_FIRST_SECONDS: Final = 0.2
POLL_MOST_SECONDS: Final = 5.0
DOUBT_SECONDS: Final = 120.0
"""An operation that lasts longer counts as unrelated to identities, like the scaling of a scale set."""
SOON_SECONDS: Final = 120.0
"""Pauses up to this length have one text, so that repeated short pauses do not change each waiting object again."""
CULPRITS_MOST: Final = 2
"""Refused identities found one after the other in a batch, after which each one is tried alone."""


@dataclass(slots=True)
class _Quarantine:
    until: float
    seconds: float
    reason: str
    adding: bool
    """Whether MIC tried to attach it, or to detach it."""


class DelayCause(NamedTuple):
    """Why calls to Azure fail."""

    throttling: str
    """That Azure throttles them, and when MIC tries again; empty if it does not."""
    response: str
    """Status and code of the response, NO_RESPONSE or NO_EFFECT."""


NO_CAUSE: Final = DelayCause("", "")


@dataclass(slots=True)
class Waits:
    """Earliest time of the next call of one kind to one host: after Retry-After, otherwise after a growing pause."""

    until: float = 0.0
    refusal: str = ""
    """Why Azure refused the last call, if a retry alone will not help; the same text each time."""
    throttling: str = ""
    """That Azure throttled the last call, and when MIC tries again."""
    cause: DelayCause = NO_CAUSE
    """The cause to report of failures that last. It stays for CAUSE_SECONDS when they alternate, because each waiting
    object has it."""
    _cause_until: float = 0.0
    _failures: int = 0
    _failing_since: float | None = None

    def failed(self, error: AzureError, now: float, refusal: str, throttling: str = "") -> None:
        self._failing_since = now if self._failing_since is None else self._failing_since
        pause = min(WAIT_FIRST_SECONDS * 2**self._failures, WAIT_MOST_SECONDS)
        self._failures = min(self._failures + 1, 16)  # a float cannot hold 2**1024
        self.until = now + max(pause, error.retry_after or 0.0)
        self.refusal, self.throttling = refusal, throttling
        if not self.delayed(now) or now >= self._cause_until:
            unseen = NO_RESPONSE if isinstance(error, Unreachable) else NO_EFFECT
            self.cause = DelayCause(throttling, error.status_and_code or unseen)
            self._cause_until = now + CAUSE_SECONDS

    def succeeded(self) -> None:
        self.until, self.refusal, self.throttling, self._failures, self._failing_since = 0.0, "", "", 0, None
        self._cause_until = 0.0

    def delayed(self, now: float) -> bool:
        """Return whether calls have failed for DELAY_SECONDS, so that MIC reports it."""
        return self._failing_since is not None and now - self._failing_since >= DELAY_SECONDS


@dataclass(slots=True)
class HostMemory:
    """Memory of one host. All times are monotonic seconds, as of *clock*."""

    clock: Callable[[], float]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The time of day, for texts only."""
    identities: HostIdentities | None = None
    """Azure's last response; None before the first and after a failure that leaves the host's state unknown."""
    learned_at: float = float("-inf")
    """Time of Azure's last response."""
    reads: Waits = field(default_factory=Waits)
    writes: Waits = field(default_factory=Waits)
    most: int = MOST_IN_ONE_UPDATE
    """Maximum of identities in one update. Halved when Azure refuses a batch without naming an identity, until the
    refused one is alone."""
    missing_since: float | None = None
    """Time of the first 404 for the host since it was last visible."""
    reported_lost: set[tuple[str, str]] = field(default_factory=set)
    """Pods (namespace, name) to which the absence of the host has been reported since the last read."""
    over: bool = False
    """Whether certainly no operation of this process or of an earlier leader is running."""
    _steady: frozenset[str] = frozenset()
    """Identities attached while no operation ran, or only one too long to concern identities."""
    _busy_since: float | None = None
    _polls: int = 0
    _undone: bool = False
    """Whether the last accepted update had no effect."""
    _suspects: int = 0
    """Identities of the last refused batch among which the refused one is."""
    _culprits: int = 0
    """Refused identities found one by one since the last accepted update."""
    _quarantined: dict[str, _Quarantine] = field(default_factory=dict)
    _idle_since: dict[str, float] = field(default_factory=dict)

    def learn(self, response: HostIdentities, gone_seconds: float) -> None:
        """Record a response. A 404 counts after GONE_SURE_SECONDS; the host is then read every *gone_seconds*."""
        self.reads.succeeded()
        self.learned_at = self.clock()
        if not response.gone:
            self.missing_since = None
            self._record_operation(response)
            self.identities = replace(response, steady=self._steady) if response.updating else response
            if not response.updating:  # during an operation Azure shows its intended result, and it may fail
                self.end_quarantine(
                    [
                        key
                        for key, quarantined in self._quarantined.items()
                        if (key in response.attached) is quarantined.adding
                    ]
                )
            return
        now = self.clock()
        if self.missing_since is None:
            self.missing_since = now
        elapsed = now - self.missing_since
        if elapsed >= GONE_SURE_SECONDS:
            self.identities, pause = GONE, gone_seconds
        else:
            # As long as the host has been missing, so that the pause doubles; the last read is at GONE_SURE_SECONDS.
            self.identities, pause = None, min(max(GONE_FIRST_SECONDS, elapsed), GONE_SURE_SECONDS - elapsed)
        self.reads.until = now + pause

    def _record_operation(self, response: HostIdentities) -> None:
        now = self.clock()
        if not response.updating:
            self._busy_since, self._polls = None, 0
        elif self._busy_since is None:
            self._busy_since = now
        if self._busy_since is None or now - self._busy_since >= DOUBT_SECONDS:
            self.over, self._steady = True, frozenset(response.attached)

    @property
    def doubtful(self) -> bool:
        """Return whether an operation of this process or an earlier leader may be running."""
        return self.identities is not None and self.identities.updating and not self.over

    def next_poll(self) -> float:
        """Return the seconds until the next poll of a running operation; they grow each time."""
        pause = min(POLL_FIRST_SECONDS * 1.5**self._polls, POLL_MOST_SECONDS)
        # By then the pause has reached its maximum, and a larger power would overflow in the end.
        self._polls = min(self._polls + 1, 16)
        return pause

    def read_failed(self, error: AzureError, refusal: str, throttling: str = "") -> None:
        """Record a failed read. A host that Azure does not know stays so until it is visible."""
        self.reads.failed(error, self.clock(), refusal, throttling)
        if self.identities is None or not self.identities.gone:
            self.identities = None

    def delay_cause(self) -> DelayCause | None:
        """Return why reads or writes have failed for long enough to report it; None if they have not."""
        now = self.clock()
        return next((waits.cause for waits in (self.reads, self.writes) if waits.delayed(now)), None)

    def refused_together(self, keys: Collection[str]) -> None:
        """Record that Azure refused these identities without naming one: the next update has a part of them."""
        self._suspects = len(keys)
        self.most = max(1, len(keys) // 2)

    def refused_alone(self, key: str, reason: str, *, adding: bool) -> None:
        """Record that Azure refused this identity."""
        self.quarantine(key, reason, adding=adding)
        self._suspects = 0
        self._culprits += 1
        self.most = MOST_IN_ONE_UPDATE if self._culprits < CULPRITS_MOST else 1

    def had_no_effect(self, error: AzureError) -> None:
        """Record that an accepted update is not visible. MIC repeats it immediately once, because another client may
        have undone it, and then after growing pauses."""
        if self._undone:
            self.writes.failed(error, self.clock(), "")
        self._undone = True

    def accepted(self, keys: Collection[str]) -> None:
        """Record that Azure accepted an update of these identities. The refused one is among the rest of the batch."""
        self.writes.succeeded()
        self._undone = False
        self.end_quarantine(keys)
        self._culprits = 0
        self._suspects = max(0, self._suspects - len(keys))
        self.most = max(1, self._suspects // 2) if self._suspects else MOST_IN_ONE_UPDATE

    def quarantine(self, key: str, reason: str, *, adding: bool = True) -> None:
        """Quarantine this identity, longer each time. Entries that have not been retried long after their end are
        dropped."""
        now = self.clock()
        for expired in [
            expired
            for expired, quarantined in self._quarantined.items()
            if quarantined.until < now - QUARANTINE_MOST_SECONDS
        ]:
            del self._quarantined[expired]
        before = self._quarantined.get(key)
        seconds = min(before.seconds * 2, QUARANTINE_MOST_SECONDS) if before else QUARANTINE_FIRST_SECONDS
        text = f"{reason}; quarantined: {self.retry_text(seconds)}"
        self._quarantined[key] = _Quarantine(now + seconds, seconds, text, adding)

    def retry_text(self, seconds: float) -> str:
        """Return when MIC tries again after a pause of *seconds* from now."""
        if seconds <= SOON_SECONDS:
            return f"MIC tries again within {SOON_SECONDS / 60:g} minutes"
        at = self.now() + timedelta(seconds=seconds + 59)  # rounded up to a minute
        return f"MIC tries again at {at:%Y-%m-%dT%H:%MZ}"

    def end_quarantine(self, keys: Iterable[str]) -> bool:
        """End the quarantine of these and forget their refusals. Return whether any was quarantined."""
        # Not any(), which would leave the keys after the first quarantined one.
        return sum(self._quarantined.pop(key, None) is not None for key in keys) > 0

    def retry_now(self, key: str) -> bool:
        """Retry this identity now, apart from others, because Azure may refuse it again. Return whether it was
        quarantined."""
        quarantined = self._quarantined.get(key)
        if quarantined is not None:
            # The entry stays: it keeps the identity in a separate update, and lets its pauses grow.
            quarantined.until = self.clock()
        return quarantined is not None

    def quarantined(self) -> dict[str, str]:
        """Return the quarantined identities and the reasons. The pauses keep growing until a retry succeeds."""
        now = self.clock()
        return {key: quarantined.reason for key, quarantined in self._quarantined.items() if quarantined.until > now}

    def retry_due(self) -> set[str]:
        """Return the refused identities whose quarantine has ended."""
        now = self.clock()
        return {key for key, quarantined in self._quarantined.items() if quarantined.until <= now}

    def was_refused(self, key: str) -> bool:
        """Return whether Azure refused this identity at the last attempt, even if its quarantine has ended."""
        return key in self._quarantined

    def next_retry(self, key: str) -> float | None:
        """Return the seconds until the retry of this identity; None if it is not quarantined."""
        quarantined = self._quarantined.get(key)
        return None if quarantined is None else max(0.0, quarantined.until - self.clock())

    def in_grace_period(self, idle: Iterable[str], grace_seconds: float) -> dict[str, float]:
        """Return the *idle* identities within their grace period and their remaining seconds. An identity that is in
        use gets the whole period again."""
        if grace_seconds <= 0:
            return {}
        now = self.clock()
        self._idle_since = {key: self._idle_since.get(key, now) for key in idle}
        left = {key: since + grace_seconds - now for key, since in self._idle_since.items()}
        return {key: seconds for key, seconds in left.items() if seconds > 0}

    def state(self) -> dict[str, object]:
        """Return the notable state of this host for /debug/state; empty if there is none. Seconds count from now."""
        now = self.clock()
        noted: dict[str, object] = {
            "quarantined": {key: round(quarantined.until - now, 1) for key, quarantined in self._quarantined.items()},
            "kept warm": len(self._idle_since),
            "no read for": round(max(0.0, self.reads.until - now), 1),
            "no write for": round(max(0.0, self.writes.until - now), 1),
            "refused": self.reads.refusal or self.writes.refusal,
            "unknown to Azure for": round(now - self.missing_since, 1) if self.missing_since is not None else 0,
            "updating": self.identities is not None and self.identities.updating,
        }
        return {name: value for name, value in noted.items() if value}
