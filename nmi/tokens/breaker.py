"""The circuit breaker before IMDS: what has failed again and again is left alone for a while, and requests are told so.

Without it each request of a node whose IMDS hangs would hold one of the five slots for ten seconds, to learn what the
last one learnt. Only failures of the endpoint itself count (no answer, 5xx): a refusal, a 410 or a 429 is an answer.
After a pause one call is let through, and its answer ends it all.

What one pod asks for may be what IMDS fails at. So the failures of one pod alone shut out that pod alone, and a pod
whose probe has failed lets others go first.
"""

import logging
import random as random_module
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from podidentity.azure.errors import AzureError, NotSent, Unreachable
from podidentity.azure.imds import ATTEMPT_SECONDS, NO_RESPONSE_CODE

log = logging.getLogger(__name__)

FAILURES: Final = 5
"""One after the other without an answer in between: as many as may be in the air at once."""
FAILURES_OF_ONE_POD: Final = FAILURES - 2
"""As many of them count if they are one pod's."""
OPEN_SECONDS: Final = 5.0
OPEN_MAX_SECONDS: Final = 15.0
"""The pause doubles with each probe that fails, up to this; all of it ± 20 %, so that nodes do not probe together.

One call in so many seconds costs IMDS nothing, and pods wait no longer for an IMDS that is back.
"""
STEP_BACK_SECONDS: Final = 2.0
"""For so long the pod whose probe failed leaves the next one to others."""


class State(StrEnum):
    """Closed set: it is a metric label."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """Belongs to one endpoint. Holds no task and no timer: time passes when somebody asks."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._clock = clock
        self._random = random
        self._blamed: dict[str, int] = {}
        """Failures since the last answer, by the account that paid. Never more than FAILURES entries."""
        self._shut = False
        self._only: str | None = None
        """While shut: the one account that is shut out, None for all."""
        self._probe: Pass | None = None
        self._probe_until = 0.0
        self._last_to_fail: str | None = None
        self._reopened = 0
        self._until = 0.0
        self._since = 0.0
        self._on_open: Callable[[], None] = lambda: None
        self.opened = 0
        """How often it has opened."""
        self.refused = 0
        """Calls that were not sent because of it."""

    def when_open(self, tell: Callable[[], None]) -> None:
        """*tell* is called each time that more calls are refused than before."""
        self._on_open = tell

    @property
    def state(self) -> State:
        if not self._shut:
            return State.CLOSED
        return State.OPEN if self._clock() < self._until else State.HALF_OPEN

    def admit(self, account: str) -> "Pass":
        """Leave for one call on behalf of *account*; whoever gets it says how the call ended. Raises NotSent."""
        refusal = self.refusal(account)
        if refusal is not None:
            self.refused += 1
            raise refusal
        admitted = Pass(self, account)
        if self._keeps_out(account):
            self._probe, self._probe_until = admitted, self._clock() + ATTEMPT_SECONDS
            log.info("one call to IMDS is let through to see whether it answers again", extra={"pod": account})
        return admitted

    def refusal(self, account: str) -> NotSent | None:
        """Why a call for *account* would not be sent now; None if it would."""
        if not self._keeps_out(account):
            return None
        now = self._clock()
        if now < self._until:
            wait = self._until - now
        elif self._probe is not None:
            wait = self._probe_until - now
        elif account == self._last_to_fail and self._only is None:
            wait = self._until + STEP_BACK_SECONDS - now
        else:
            return None
        if wait <= 0.0 and self._probe is None:
            return None
        return NotSent("IMDS fails and is left alone for a moment", code="circuit_open", retry_after=max(wait, 1.0))

    def state_now(self) -> dict[str, object]:
        """For the operator: JSON-able."""
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

    # What passes tell.

    def answered(self, account: str) -> None:
        """The endpoint has answered somebody: whatever it failed at before, it is there."""
        self._blamed.clear()
        self._probe = self._last_to_fail = self._only = None
        if self._shut:
            self._shut = False
            self._reopened = 0
            log.info(
                "IMDS answers again",
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
            return  # sent before it opened
        self._blamed[account] = self._blamed.get(account, 0) + 1
        if sum(min(count, FAILURES_OF_ONE_POD) for count in self._blamed.values()) >= FAILURES:
            self._reopened = 0
            self._open(error, None)
        elif self._blamed[account] >= FAILURES and not self._shut:
            self._open(error, account)

    def given_up(self, admitted: "Pass") -> None:
        """The call was not made, or nobody waited for its end: the next one may be the probe."""
        if admitted is self._probe:
            self._probe = None

    def _open(self, error: AzureError, only: str | None) -> None:
        now = self._clock()
        if not self._shut:
            self.opened += 1
            self._since = now
            self._reopened = 0
        self._shut, self._only = True, only
        seconds = min(OPEN_SECONDS * 2.0 ** min(self._reopened, 8), OPEN_MAX_SECONDS) * (0.8 + 0.4 * self._random())
        self._until = now + seconds
        log.warning(
            "IMDS fails and is left alone for a while, tokens that are kept are served on: see whether it answers on "
            "this node",
            extra={"pod": only, "seconds": round(seconds, 1), "count": sum(self._blamed.values()), "error": str(error)},
        )
        self._on_open()


class Pass:
    """Leave for one call. Its owner calls exactly one of `ended` and `unused`."""

    __slots__ = ("_breaker", "account")

    def __init__(self, breaker: Breaker, account: str) -> None:
        self._breaker = breaker
        self.account = account

    def ended(self, error: BaseException | None) -> None:
        """*error* is what the call raised. One that says nothing about the endpoint counts neither way."""
        if error is None or (isinstance(error, AzureError) and is_answer(error)):
            self._breaker.answered(self.account)
        elif isinstance(error, AzureError) and is_failure(error):
            self._breaker.failed(self, error)
        else:
            self._breaker.given_up(self)

    def unused(self) -> None:
        """The call was not made."""
        self._breaker.given_up(self)


def is_answer(error: AzureError) -> bool:
    """Whether *error* shows an endpoint that works, though it gave no token."""
    return error.status is not None and error.status < 500


def is_failure(error: AzureError) -> bool:
    """Whether *error* is the endpoint's own failure: no answer to a whole try, or a 5xx."""
    if isinstance(error, Unreachable):
        return error.code == NO_RESPONSE_CODE
    return error.status is not None and error.status >= 500
