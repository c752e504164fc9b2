"""The circuit breaker for IMDS: after repeated failures it refuses calls for a time, and requests fail immediately.

Without the breaker, each request on a node whose IMDS hangs would hold one of the five permits for ten seconds, only
to fail like the one before. Only failures of the endpoint itself count (no response, 5xx): a refusal, a 410 or a 429
is a response. After a pause the breaker admits one call, the probe. A response to it closes the breaker.

IMDS may fail only for the requests of one pod. Therefore the failures of one pod alone block that pod alone, and a pod
whose probe has failed leaves the next probe to other pods.
"""

import logging
import random as random_module
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from podidentity.azure.errors import AzureError, CameBack, NotSent, Unreachable
from podidentity.azure.imds import ATTEMPT_SECONDS, NO_RESPONSE_CODE

log = logging.getLogger(__name__)

FAILURES: Final = 5
"""Consecutive failures without a response in between: as many as there may be concurrent calls."""
FAILURES_OF_ONE_POD: Final = FAILURES - 2
"""The most that the failures of one pod count for."""
OPEN_SECONDS: Final = 5.0
OPEN_MAX_SECONDS: Final = 15.0
"""The pause doubles with each failed probe up to this maximum, ± 20 % so that nodes do not probe at the same time.

One call in this time is no load for IMDS, and it limits the time that pods wait after IMDS has recovered.
"""
STEP_BACK_SECONDS: Final = 2.0
"""The time for which the pod with the failed probe leaves the next probe to other pods."""


class State(StrEnum):
    """The states of the breaker: a closed set, used as a metric label."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """Circuit breaker of one endpoint. It has no task and no timer: it compares times when it is called."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._clock = clock
        self._random = random
        self._blamed: dict[str, int] = {}
        """Failures since the last response, by charged account. Never more than FAILURES entries."""
        self._shut = False
        self._only: str | None = None
        """While open: the blocked account, None for all accounts."""
        self._probe: Pass | None = None
        self._probe_until = 0.0
        self._last_to_fail: str | None = None
        self._reopened = 0
        self._until = 0.0
        self._since = 0.0
        self._on_open: Callable[[], None] = lambda: None
        self.opened = 0
        """How often the breaker has opened."""
        self.refused = 0
        """Calls that the breaker refused."""

    def when_open(self, callback: Callable[[], None]) -> None:
        """Call *callback* each time that the breaker opens, or begins to block more accounts."""
        self._on_open = callback

    @property
    def state(self) -> State:
        if not self._shut:
            return State.CLOSED
        return State.OPEN if self._clock() < self._until else State.HALF_OPEN

    def admit(self, account: str) -> "Pass":
        """Admit one call on behalf of *account*. The caller reports the outcome to the Pass. Raise NotSent."""
        refusal = self.refusal(account)
        if refusal is not None:
            self.refused += 1
            raise refusal
        admitted = Pass(self, account)
        # One probe at a time: each further call could hold a permit for ten seconds, only to fail.
        if self._keeps_out(account):
            self._probe, self._probe_until = admitted, self._clock() + ATTEMPT_SECONDS
            log.info("probing IMDS with one call", extra={"pod": account})
        return admitted

    def refusal(self, account: str) -> NotSent | None:
        """Return the error for a call of *account* that the breaker would refuse now; None if it would admit it."""
        if not self._keeps_out(account):
            return None
        now = self._clock()
        if now < self._until:
            wait = self._until - now
        elif self._probe is not None:
            wait = self._probe_until - now
        # A pod whose probe has failed leaves the next one to other pods, unless it is the only blocked one.
        elif account == self._last_to_fail and self._only is None:
            wait = self._until + STEP_BACK_SECONDS - now
        else:
            return None
        if wait <= 0.0 and self._probe is None:
            return None
        return NotSent("IMDS fails; no calls for a short time", code="circuit_open", retry_after=max(wait, 1.0))

    def refusal_of_all(self, accounts: Sequence[str]) -> NotSent | None:
        """Return the refusal of the first of *accounts* if the breaker would refuse all of them; else None."""
        refusals = [self.refusal(account) for account in accounts]
        return refusals[0] if all(refusals) else None

    def state_now(self) -> dict[str, object]:
        """Return the state for /debug/state: JSON-able."""
        now = self._clock()
        return {
            "state": str(self.state),
            "failures": sum(self._blamed.values()),
            "only": self._only,
            "seconds_left": round(max(0.0, self._until - now), 1) if self._shut else 0.0,
            "probing": self._probe is not None,
            "opened": self.opened,
            "refused": self.refused,
        }

    def _keeps_out(self, account: str) -> bool:
        return self._shut and self._only in {None, account}

    # Called by passes.

    def responded(self, account: str) -> None:
        """Record a response to any pod and close: the endpoint works."""
        self._blamed.clear()
        self._probe = self._last_to_fail = self._only = None
        if self._shut:
            self._shut = False
            self._reopened = 0
            log.info(
                "IMDS responds again",
                extra={"pod": account, "seconds": round(self._clock() - self._since, 1), "count": self.refused},
            )

    def failed(self, admitted: "Pass", error: AzureError) -> None:
        account = admitted.account
        if admitted is self._probe:
            self._probe, self._last_to_fail = None, account
            self._reopened += 1
            self._open(error, self._only)
            return
        if self._shut and self._only in {None, account}:
            return  # sent before the breaker opened
        self._blamed[account] = self._blamed.get(account, 0) + 1
        # IMDS may fail only for the requests of one pod, so the failures of one pod alone never block all.
        if sum(min(count, FAILURES_OF_ONE_POD) for count in self._blamed.values()) >= FAILURES:
            self._reopened = 0
            self._open(error, None)
        elif self._blamed[account] >= FAILURES and not self._shut:
            self._open(error, account)

    def given_up(self, admitted: "Pass") -> None:
        """Record a call that was not sent or was cancelled: the next call may be the probe."""
        if admitted is self._probe:
            self._probe = None

    def _open(self, error: AzureError, only: str | None) -> None:
        now = self._clock()
        if not self._shut:
            self.opened += 1
            self._since = now
            self._reopened = 0
        self._shut, self._only = True, only
        # The exponent is bounded, because a float overflows after a thousand probes.
        seconds = min(OPEN_SECONDS * 2.0 ** min(self._reopened, 8), OPEN_MAX_SECONDS) * (0.8 + 0.4 * self._random())
        self._until = now + seconds
        log.warning(
            "IMDS fails, calls to it are suspended, cached tokens are still served; check that IMDS responds on this "
            "node",
            extra={"pod": only, "seconds": round(seconds, 1), "count": sum(self._blamed.values()), "error": str(error)},
        )
        self._on_open()


class Pass:
    """The admission of one call. The owner calls exactly one of `ended` and `unused`."""

    __slots__ = ("_breaker", "account")

    def __init__(self, breaker: Breaker, account: str) -> None:
        self._breaker = breaker
        self.account = account

    def ended(self, error: BaseException | None) -> None:
        """Report the end of the call. *error* is the exception of the call; not every one is about the endpoint."""
        if error is None or (isinstance(error, AzureError) and is_response(error)):
            self._breaker.responded(self.account)
        elif isinstance(error, AzureError) and is_failure(error):
            self._breaker.failed(self, error)
        else:
            self._breaker.given_up(self)

    def unused(self) -> None:
        """Report that the call was not sent."""
        self._breaker.given_up(self)


def is_response(error: AzureError) -> bool:
    """Return whether *error* is a response of a working endpoint."""
    return error.status is not None and error.status < 500


def is_failure(error: AzureError) -> bool:
    """Return whether *error* is a failure of the endpoint: no response to a complete attempt, or a 5xx."""
    if isinstance(error, Unreachable):
        return error.code == NO_RESPONSE_CODE
    # A request that came back to NMI (by the redirect of Cilium) never reached IMDS.
    return error.status is not None and error.status >= 500 and not isinstance(error, CameBack)
