"""Pods whose address has changed hands by local evidence: suspended until it is certain whose the address is.

A suspension is of one pod at one address. It begins with the evidence. It also begins when a pod claims an address
whose last sandbox ended less than a minute ago, unless one of its containers was started since: the watch may report a
pod after its sandbox ended, or an old state of a pod. While a suspension lasts nothing is granted to what asks from
there, whatever the watch's state is and whether or not the API server answers. It ends in one of these ways:

* The pod is gone, or no longer has that address.
* The watch shows a running container of the pod that was started after the evidence, and so in a sandbox that is
  younger than it. Nothing else in an event ends it: one about labels, conditions or restarts may have been written
  before the sandbox ended, and be on its way since. (The kubelet rounds these times down to seconds, and takes them
  from the node's clock, which is NMI's as well.)
* VERIFY_SECONDS after the last evidence, when the kubelet has long reported a sandbox that ended, a read shows the pod
  running at the address, and no other live pod there that was started as late. Any other answer, or none, is asked
  for again later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nmi.identity.address_evidence import Evidence, EvidenceKind
from nmi.identity.container_starts import started_after
from nmi.identity.pods import PodEntry
from podidentity.kube.rates import TokenBucket

log = logging.getLogger(__name__)

VERIFY_SECONDS: Final = 10.0
"""The kubelet reports a sandbox that ended within a second or two."""
GAP_SECONDS: Final = 0.1
"""Between the verifications of two pods: what they cost the API server is bounded however many there are."""
RETRY_SECONDS: Final = (5.0, 10.0, 20.0, 30.0)
POLL_SECONDS: Final = 0.5
REMEMBERED_SECONDS: Final = 60.0
REMEMBERED_MAX: Final = 4096
"""How long, and for how many addresses, the end of a sandbox is kept for pods that claim the address later."""
LOGGED_AT_ONCE: Final = 20
LOG_GAP_SECONDS: Final = 5.0
"""A pod can cause evidence as often as it likes: more lines than these are counted instead."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    """Evidence of an address."""

    evidence: Evidence
    since: float
    """Wall clock, seconds."""
    seen: float
    """The monotonic clock then."""


@dataclass(slots=True, eq=False)
class Suspension:
    """One pod at one address."""

    entry: PodEntry
    address: str
    kind: EvidenceKind
    since: float
    """Wall clock of the last evidence, seconds."""
    due: float
    """When it is verified, by the monotonic clock."""
    tries: int = 0
    counted: int = field(default=1)
    """How much evidence there was."""


class Suspensions:
    """All suspensions of the node; `run` is the task that verifies them."""

    def __init__(
        self,
        candidates: Callable[[str], Sequence[PodEntry]],
        verify: Callable[[PodEntry, str], Awaitable[bool]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """*claimants*: the pods that are known at an address. *verify*: whether a read made now shows that the address
        is that pod's alone; raises nothing.
        """
        self._claimants = candidates
        self._verify = verify
        self._clock = clock
        self._wall_clock = wall_clock
        self._suspensions: dict[PodEntry, dict[str, Suspension]] = {}
        self._remembered: dict[str, _Remembered] = {}
        """By address, the oldest first."""
        self._begun = asyncio.Event()
        self._lines = TokenBucket(1 / LOG_GAP_SECONDS, LOGGED_AT_ONCE, clock)
        self._left_out = 0
        """Lines that were left out since the last one."""
        self.counts = dict.fromkeys(EvidenceKind, 0)
        """Suspensions that have begun, by the evidence that began them."""

    @property
    def remembered(self) -> int:
        """Addresses of which evidence is kept for later claims."""
        return len(self._remembered)

    @property
    def pods(self) -> int:
        """How many pods are suspended now."""
        return len(self._suspensions)

    def of(self, entry: PodEntry) -> dict[str, str]:
        """The addresses at which the pod is suspended, with the evidence."""
        return {address: str(each.kind) for address, each in self._suspensions.get(entry, {}).items()}

    def begin(self, found: Iterable[Evidence]) -> None:
        """Suspend every pod that is known at these addresses, or claims them later."""
        for evidence in found:
            there = _Remembered(evidence, self._wall_clock(), self._clock())
            if evidence.kind.ends:
                self._remember(there)
            for entry in self._claimants(evidence.address):
                self._begin(entry, there)

    def claimed(self, address: str, entry: PodEntry) -> None:
        """The pod has become known at this address."""
        there = self._remembered.get(address)
        if there is None or self._clock() - there.seen >= REMEMBERED_SECONDS:
            return
        if not started_after(entry.pod, there.since):
            self._begin(entry, there)

    def changed(self, entry: PodEntry) -> None:
        """The watch has reported the pod: see whether that ends its suspensions."""
        for suspension in list(self._suspensions.get(entry, {}).values()):
            if suspension.address not in entry.addresses or started_after(entry.pod, suspension.since):
                self._end(suspension)

    def left(self, entry: PodEntry) -> None:
        """The pod is gone."""
        for suspension in list(self._suspensions.get(entry, {}).values()):
            self._end(suspension)

    async def run(self) -> None:
        """Verify suspensions when they are due, until cancelled."""
        while True:
            due = min((each.due for each in self._all()), default=None)
            if due is None:
                self._begun.clear()
                await self._begun.wait()
            elif (wait := due - self._clock()) > 0:
                await asyncio.sleep(min(wait, POLL_SECONDS))
            else:
                await self._decide(next(each for each in self._all() if each.due == due))
                await asyncio.sleep(GAP_SECONDS)

    def _all(self) -> Iterable[Suspension]:
        return (each for there in self._suspensions.values() for each in there.values())

    def _remember(self, there: _Remembered) -> None:
        self._remembered.pop(there.evidence.address, None)
        self._remembered[there.evidence.address] = there
        oldest = next(iter(self._remembered))
        if len(self._remembered) > REMEMBERED_MAX or there.seen - self._remembered[oldest].seen >= REMEMBERED_SECONDS:
            del self._remembered[oldest]

    def _begin(self, entry: PodEntry, there: _Remembered) -> None:
        evidence, due = there.evidence, there.seen + VERIFY_SECONDS
        suspended = self._suspensions.setdefault(entry, {})
        suspension = suspended.get(evidence.address)
        if suspension is not None:
            suspension.since, suspension.due, suspension.tries = there.since, due, 0
            suspension.counted += 1
            return
        suspended[evidence.address] = Suspension(entry, evidence.address, evidence.kind, there.since, due)
        entry.suspend()
        self._begun.set()
        self.counts[evidence.kind] += 1
        if self._lines.take():
            left_out, self._left_out = self._left_out, 0
            log.info(
                "pod suspended, its address has changed hands",
                extra={
                    "pod": entry.key,
                    "address": evidence.address,
                    "evidence": str(evidence.kind),
                    "interface": evidence.interface,
                    "left_out": left_out,
                },
            )
        else:
            self._left_out += 1

    def _end(self, suspension: Suspension) -> None:
        there = self._suspensions.get(suspension.entry, {})
        if there.pop(suspension.address, None) is None or there:
            return
        del self._suspensions[suspension.entry]
        suspension.entry.lift()

    async def _decide(self, suspension: Suspension) -> None:
        counted = suspension.counted
        confirmed = await self._verify(suspension.entry, suspension.address)
        if suspension.counted != counted:
            return  # there is newer evidence than the read
        if confirmed:
            self._end(suspension)
        suspension.due = self._clock() + RETRY_SECONDS[min(suspension.tries, len(RETRY_SECONDS) - 1)]
        suspension.tries += 1
