"""Suspensions of pods whose address changed its owner by local evidence, until the owner is certain.

A suspension is for one pod at one address. It begins with the evidence. It also begins when a pod gets an address whose
last sandbox ended less than a minute ago, unless one of its containers started since then: the watch may report a pod
after its sandbox ended, or an old state of a pod. During a suspension NMI grants nothing to requests from that address,
regardless of the watch's state and of the API server's responses. It ends in one of these ways:

* The pod is removed, or no longer has that address.
* The watch shows a running container of the pod that started after the evidence, and so in a younger sandbox. No other
  property of an event ends it: an event about labels, conditions or restarts may have been written before the sandbox
  ended and arrive later. (The kubelet rounds these times down to seconds, and takes them from the node's clock, which
  NMI also uses.)
* VERIFY_SECONDS after the last evidence, when the kubelet has reported a sandbox that ended, a read shows the pod
  running at the address, and no other live pod there that started as late. After any other response, or none, the read
  is repeated later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from nmi.identity.address_evidence import Evidence, EvidenceKind
from nmi.identity.pod_entry import PodEntry
from nmi.identity.pods import started_after
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

VERIFY_SECONDS: Final = 10.0
"""The kubelet reports a sandbox that ended within a second or two."""
GAP_SECONDS: Final = 0.1
"""Interval between the verifications of two pods, which bounds the load on the API server."""
RETRY_SECONDS: Final = (5.0, 10.0, 20.0, 30.0)
POLL_SECONDS: Final = 0.5
REMEMBERED_SECONDS: Final = 60.0
REMEMBERED_MAX: Final = 4096
"""How long, and for how many addresses, the end of a sandbox is remembered for pods that get the address later."""
LOGGED_AT_ONCE: Final = 20
LOG_GAP_SECONDS: Final = 5.0
"""A pod can cause any amount of evidence. Lines beyond this rate are counted instead."""


Verify = Callable[[PodEntry, str], Awaitable[bool]]
"""Return whether a new read shows that the address is that pod's alone. Raise nothing."""


class _DatedEvidence(msgspec.Struct, frozen=True):
    """Evidence about an address, and when it arrived."""

    evidence: Evidence
    since: float
    """Wall clock, seconds."""
    seen: float
    """The monotonic clock at that time."""


class Suspension(msgspec.Struct, eq=False):
    """One pod at one address."""

    entry: PodEntry
    address: str
    kind: EvidenceKind
    since: float
    """Wall clock of the last evidence, seconds."""
    due: float
    """When it is verified, by the monotonic clock."""
    tries: int = 0
    counted: int = 1
    """The number of pieces of evidence."""


class Suspensions:
    """All suspensions of the node; `run` is the task that verifies them."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._suspensions: dict[PodEntry, dict[str, Suspension]] = {}
        self._remembered: dict[str, _DatedEvidence] = {}
        """The evidence that is kept for later pods, by address, the oldest first."""
        self._begun = asyncio.Event()
        self._lines = LogLimit(burst=LOGGED_AT_ONCE, per_second=1 / LOG_GAP_SECONDS, clock=clock)
        self.counts = dict.fromkeys(EvidenceKind, 0)
        """Suspensions since the start, by the evidence that began them."""

    @property
    def remembered(self) -> int:
        """Number of addresses whose evidence is remembered for later pods."""
        return len(self._remembered)

    @property
    def pods(self) -> int:
        """Number of suspended pods."""
        return len(self._suspensions)

    def of(self, entry: PodEntry) -> dict[str, str]:
        """Return the addresses at which the pod is suspended, with the evidence."""
        return {address: str(suspension.kind) for address, suspension in self._suspensions.get(entry, {}).items()}

    def begin(self, evidence: Evidence, entries: Iterable[PodEntry]) -> None:
        """Suspend *entries*, the pods that have the address now, and those that get it later (`address_added`)."""
        dated = _DatedEvidence(evidence, self._wall_clock(), self._clock())
        # The other kinds may be the first packet of the next owner, which must not be suspended for it.
        if evidence.kind.ends:
            self._remember(dated)
        for entry in entries:
            self._begin(entry, dated)

    def address_added(self, address: str, entry: PodEntry) -> None:
        """Suspend a pod that gets *address* if there is recent evidence about it."""
        dated = self._remembered.get(address)
        # The monotonic clock, because the time for which evidence counts must not depend on clock changes.
        if dated is None or self._clock() - dated.seen >= REMEMBERED_SECONDS:
            return
        # The watch may report the pod of the ended sandbox only now. A pod that started later has another sandbox.
        if not started_after(entry.pod, dated.since):
            self._begin(entry, dated)

    def changed(self, entry: PodEntry) -> None:
        """End the suspensions of the pod that its new state from the watch ends."""
        for suspension in list(self._suspensions.get(entry, {}).values()):
            # Labels, conditions and restart counts may be older than the evidence, so they end nothing.
            if suspension.address not in entry.addresses or started_after(entry.pod, suspension.since):
                self._end(suspension)

    def left(self, entry: PodEntry) -> None:
        """End the suspensions of a removed pod."""
        for suspension in list(self._suspensions.get(entry, {}).values()):
            self._end(suspension)

    async def run(self, verify: Verify) -> None:
        """Verify suspensions when they are due, until cancelled."""
        while True:
            due = min((suspension.due for suspension in self._all()), default=None)
            if due is None:
                self._begun.clear()
                await self._begun.wait()
            elif (wait := due - self._clock()) > 0:
                # A later suspension may be due before the repeated verification of this one.
                await asyncio.sleep(min(wait, POLL_SECONDS))
            else:
                await self._verify(next(suspension for suspension in self._all() if suspension.due == due), verify)
                # The end of a bridge suspends all of its pods, and each verification sends two reads.
                await asyncio.sleep(GAP_SECONDS)

    def _all(self) -> Iterable[Suspension]:
        return (suspension for by_address in self._suspensions.values() for suspension in by_address.values())

    def _remember(self, dated: _DatedEvidence) -> None:
        self._remembered.pop(dated.evidence.address, None)
        self._remembered[dated.evidence.address] = dated
        # Sandboxes may end without limit, so a new entry removes one that is too old or too many.
        oldest = next(iter(self._remembered))
        if len(self._remembered) > REMEMBERED_MAX or dated.seen - self._remembered[oldest].seen >= REMEMBERED_SECONDS:
            del self._remembered[oldest]

    def _begin(self, entry: PodEntry, dated: _DatedEvidence) -> None:
        evidence, due = dated.evidence, dated.seen + VERIFY_SECONDS
        suspended = self._suspensions.setdefault(entry, {})
        suspension = suspended.get(evidence.address)
        if suspension is not None:
            # The kubelet must have time to report the last sandbox that ended, not only the first.
            suspension.since, suspension.due, suspension.tries = dated.since, due, 0
            suspension.counted += 1
            return
        suspended[evidence.address] = Suspension(entry, evidence.address, evidence.kind, dated.since, due)
        entry.suspend()
        self._begun.set()
        self.counts[evidence.kind] += 1
        if self._lines.allows():
            log.info(
                "pod suspended, its address changed its owner",
                extra={
                    "pod": entry.key,
                    "address": evidence.address,
                    "evidence": str(evidence.kind),
                    "interface": evidence.interface,
                    "left_out": self._lines.left_out,
                },
            )

    def _end(self, suspension: Suspension) -> None:
        by_address = self._suspensions.get(suspension.entry, {})
        if by_address.pop(suspension.address, None) is None or by_address:
            return  # ended before, or suspended at another address: ready responses are the pod's, not an address's
        del self._suspensions[suspension.entry]
        suspension.entry.lift()

    async def _verify(self, suspension: Suspension, verify: Verify) -> None:
        counted = suspension.counted
        confirmed = await verify(suspension.entry, suspension.address)
        if suspension.counted != counted:
            return  # there is newer evidence than the read
        if confirmed:
            self._end(suspension)
        suspension.due = self._clock() + RETRY_SECONDS[min(suspension.tries, len(RETRY_SECONDS) - 1)]
        suspension.tries += 1
