"""Check of the redirect by Cilium, which can delete it while its policy exists, and the repair.

Cilium's agent (1.20) may delete the entries of all its redirects when it starts, and when it lists the Services after
an outage of the API server. It creates them again when a pod of NMI's namespace on this node changes. NMI's own
connections to IMDS are exempt from the redirect, so they do not show its loss. The chart therefore creates a second
policy, without this exemption, for the metadata address and NMI's own port: NMI connects there and reaches itself. Both
entries have the same cause of loss. The agent can lose the exemption too: then NMI's requests to IMDS come back.

The repair needs no permission: NMI reports not Ready until the kubelet and Cilium have noticed, and then Ready again.
While no redirect has ever been seen, NMI stays Ready, because Cilium redirects only to Ready pods.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Never

from podidentity.azure.errors import AzureError, CameBack

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 2.0
FAILURES: Final = 3
"""Failed checks in a row that mean a loss."""
NOT_READY_SECONDS: Final = 24.0
"""How long NMI reports not Ready: the chart's readiness probe needs 18 s for eight failures, 2 s apart."""
WAIT_SECONDS: Final = 30.0
WAIT_SECONDS_MAX: Final = 960.0
"""How long NMI then waits for the redirect before it reports not Ready again; doubled with each attempt."""
STABLE_SECONDS: Final = 300.0
"""A redirect that stays for this long counts as repaired: the next loss begins with WAIT_SECONDS."""
CAME_BACK_SECONDS: Final = 5.0
"""How long NMI's requests to IMDS come back, without another response, before that is a loss of the exemption. Cilium
creates the exemption a moment after the redirect."""
UNSEEN_SECONDS: Final = 60.0
"""How long after the start NMI waits for the first successful check before it logs a warning."""
LOST: Final = "Cilium has lost the redirect to NMI"
LOST_EXEMPTION: Final = "Cilium has lost NMI's exemption from the redirect"
_PAGE: Final = "docs/data-planes.md"


async def connects(address: tuple[str, int]) -> bool:
    """Return whether a server accepts a connection to *address*. It is closed without a byte."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(*address)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


class CiliumRedirect:
    """The state of the redirect by Cilium. `run` is the task of its check."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        connect: Callable[[tuple[str, int]], Awaitable[bool]] = connects,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """*address* is the metadata address with NMI's own port."""
        self._address = address
        self._connect = connect
        self._clock = clock
        self._sleep = sleep
        self._failed = 0
        self._imds_responds = False
        self._came_back_since = float("inf")
        self._cause = ""
        self._warn_at: float | None = None
        self._warned = False
        self._not_ready_until = float("-inf")
        self._repair_at = float("-inf")
        """No repair begins earlier."""
        self._redirected_since = float("inf")
        self._wait_seconds = WAIT_SECONDS
        self.seen = False
        """Whether a check has succeeded since the start."""
        self.repairs = 0
        """How often NMI has reported not Ready for a repair."""

    @property
    def in_force(self) -> bool:
        """Whether the newest checks show the redirect."""
        return self.seen and self._failed < FAILURES

    async def run(self) -> Never:
        """Check until cancelled. Call it when NMI listens."""
        self._warn_at = self._clock() + UNSEEN_SECONDS
        while True:
            self.note(await self._connect(self._address))
            await self._sleep(CHECK_SECONDS)

    def note(self, redirected: bool) -> None:
        """Note the result of one check."""
        now = self._clock()
        if redirected:
            if self._failed >= FAILURES:
                log.info("Cilium redirects to NMI again")
            if self._failed or self._redirected_since == float("inf"):
                self._redirected_since = now
            self.seen, self._failed = True, 0
            # These checks show the redirect only, so a lost exemption keeps NMI not Ready for the whole time.
            if self._cause.startswith(LOST):
                self._not_ready_until = float("-inf")
            return
        self._failed += 1
        # Cilium redirects only to Ready pods, so without readiness there would never be a first redirect.
        if not self.seen:
            self._warn_unseen(now)
        elif self._failed >= FAILURES:
            self._repair(now, f"{LOST}: nothing accepts connections to {self._shown}")

    def note_imds(self, error: AzureError | None) -> None:
        """Note the end of a request of NMI to IMDS.

        Requests that come back start a repair only if IMDS has answered before: else no exemption has ever existed,
        and NMI can serve what needs no IMDS.
        """
        if isinstance(error, CameBack):
            now = self._clock()
            self._came_back_since = min(self._came_back_since, now)
            # A request in the moment between Cilium's redirect and its exemption comes back too.
            if self._imds_responds and now - self._came_back_since >= CAME_BACK_SECONDS:
                self._repair(now, f"{LOST_EXEMPTION}: NMI's own requests to IMDS are redirected to NMI")
        # Any response of IMDS, also a refusal, shows that NMI's requests reach it.
        elif error is None or error.status is not None:
            self._imds_responds, self._came_back_since = True, float("inf")

    def problem(self) -> str | None:
        """Return why NMI is not Ready, with the next action; None while it is Ready."""
        if self._clock() >= self._not_ready_until:
            return None
        return (
            f"{self._cause}; NMI reports not Ready for {NOT_READY_SECONDS:g} s, so that Cilium creates it again; if "
            f"this repeats, see {_PAGE}"
        )

    def note_text(self) -> str:
        """Return what /readyz adds; "" if there is nothing to add."""
        return "" if self.seen or self._warn_at is None or self._clock() < self._warn_at else self._unseen

    def _repair(self, now: float, cause: str) -> None:
        if now < self._repair_at:
            return
        if now - self._redirected_since >= STABLE_SECONDS:
            self._wait_seconds = WAIT_SECONDS
        self.repairs += 1
        self._cause = cause
        # Neither requests that came back before this repair nor a redirect that was lost count for the next decision.
        self._redirected_since = self._came_back_since = float("inf")
        self._not_ready_until = now + NOT_READY_SECONDS
        self._repair_at = self._not_ready_until + self._wait_seconds
        # A check that fails for another reason must not keep NMI from its pods again and again.
        self._wait_seconds = min(2 * self._wait_seconds, WAIT_SECONDS_MAX)
        log.error("the redirect is lost; see the reason", extra={"reason": self.problem()})

    def _warn_unseen(self, now: float) -> None:
        if self._warned or self._warn_at is None or now < self._warn_at:
            return
        self._warned = True
        log.warning("the redirect has not been seen; see the reason", extra={"reason": self._unseen})

    @property
    def _shown(self) -> str:
        host, port = self._address
        return f"{host}:{port}"

    @property
    def _unseen(self) -> str:
        return (
            f"nothing has redirected NMI's connections to {self._shown} since its start: set "
            "localRedirectPolicies.enabled=true in Cilium, install the chart's two CiliumLocalRedirectPolicies, and "
            f"run podidctl verify; see {_PAGE}"
        )
