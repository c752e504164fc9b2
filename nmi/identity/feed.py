"""From the API server to the index: two watches, and the one place where what they say changes who gets what.

Pods of this node and the assigned identities that name them come in as events; entries, claims on addresses and
generations go out. Where the watches may be behind (an unknown or contested address, an ending pod, a silent watch) a
few bounded reads are asked as well. A read never overwrites what a watch has said, since the two may cross: it only
adds an unconfirmed pod, settles whose an address is, or finds a pod gone.
"""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from _native.index import Index, PodRecord
from nmi.identity.addresses import Addresses
from nmi.identity.decide import PodFacts
from nmi.identity.measures import IdentityMeasures
from nmi.identity.parking import Parking
from nmi.identity.pods import PodEntry, facts
from nmi.identity.reads import DoubtReads, UnansweredError
from nmi.identity.standard import Assigned, project
from nmi.refusal import Reason, Refusal
from podidentity.kube.client import Client
from podidentity.kube.informer import SILENCE_SECONDS, Informer
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    NODENAME_LABEL,
    PODS,
    AzureAssignedIdentity,
    Pod,
    nodename_label,
)

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 5.0
"""On top of the watch's own deadline on silence, so that one which replaces itself in time suspends nothing."""
CHECK_SECONDS: Final = 0.5
"""How soon a watch that speaks again is noticed."""

GONE: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "No pod is known at this address.",
    "the pod has been deleted, has finished, or its address has passed to another; nothing to do",
)
_UNVERIFIED: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "This pod cannot be verified at the moment; try again.",
    "a watch is silent and the API server does not answer; --stale-identity=serve would go on serving",
    retry_after=5.0,
)

PodKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a decision about one pod is made on."""

    pod: PodFacts
    assigned: tuple[Assigned, ...]
    certain: bool
    """Whether a ready answer may be made of it: the watches vouch for it, not a read or a hope."""


class Feed:
    """Owns the watches, the entries and the reads. `run()` is its task; `aclose()` ends what `run` does not."""

    def __init__(
        self,
        client: Client,
        index: Index,
        measures: IdentityMeasures,
        *,
        node: str,
        scale_features: bool = True,
        refuse_stale: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
        park_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """*scale_features*: MIC labels assigned identities with their node, so only this node's are watched.

        *refuse_stale*: refuse where a watch is silent and the API server does not answer either, instead of serving.
        """
        label_selector = f"{NODENAME_LABEL}={nodename_label(node)}" if scale_features else ""
        self._index = index
        self._measures = measures
        self._node = node
        self._refuse_stale = refuse_stale
        self._stale_seconds = silence_seconds + GRACE_SECONDS
        self._clock = clock
        self._entries: dict[PodKey, PodEntry] = {}
        self._assigned: dict[PodKey, dict[tuple[str, str], Assigned]] = {}
        self._reads = DoubtReads(client, label_selector, clock)
        self._parking = Parking(index.get, self._ask_about, park_seconds=park_seconds, clock=clock)
        self._addresses = Addresses(index, self._parking.arrived)
        self.pods = Informer(
            client,
            PODS,
            PodHandler(self),
            field_selector=f"spec.nodeName={node}",
            silence_seconds=silence_seconds,
            clock=clock,
            random=random,
        )
        self.assigned = Informer(
            client,
            ASSIGNED_IDENTITIES,
            AssignedHandler(self),
            label_selector=label_selector,
            silence_seconds=silence_seconds,
            clock=clock,
            random=random,
        )
        index.suspended = True
        measures.watch(
            {"pods": self.pods, "assigned_identities": self.assigned},
            {
                "index_size": lambda: len(index),
                "parked": lambda: self._parking.waiting,
                "stale": lambda: float(self.stale()),
                "failed_reads": lambda: self._reads.failed,
            },
        )

    # The life of the feed.

    async def run(self) -> None:
        """Keep the index equal to the API server until cancelled. Ends with an exception only if a handler failed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pods.run(), name="watch pods")
            tasks.create_task(self.assigned.run(), name="watch assigned identities")
            tasks.create_task(self._watch_the_watches(), name="watch for silence")

    async def synced(self) -> None:
        """Wait until both first lists are in the index."""
        await self.pods.synced()
        await self.assigned.synced()
        self.check()

    async def aclose(self) -> None:
        """End the reads that requests have begun."""
        await self._parking.aclose()
        await self._reads.aclose()

    def stale(self) -> bool:
        """Whether a watch is silent past its deadline (or has not spoken yet)."""
        return self._silent(self.pods) or self._silent(self.assigned)

    def check(self) -> None:
        """Suspend ready answers while a watch is silent; let them be served again when it speaks."""
        stale = self.stale()
        if stale == self._index.suspended:
            return
        self._index.suspended = stale
        if stale:
            log.warning(
                "a watch is silent and every grant is verified by a read: see whether the API server answers this node",
                extra={"node": self._node},
            )
        else:
            log.info("the watches speak, nothing to do", extra={"node": self._node, "count": len(self._entries)})

    def _silent(self, watch: Informer[Pod] | Informer[AzureAssignedIdentity]) -> bool:
        return watch.staleness_seconds() > self._stale_seconds

    async def _watch_the_watches(self) -> None:
        while True:
            self.check()
            oldest = max(self.pods.staleness_seconds(), self.assigned.staleness_seconds())
            await asyncio.sleep(max(CHECK_SECONDS, self._stale_seconds - oldest))

    # What requests ask.

    def entries(self) -> Iterator[PodEntry]:
        """Every pod that may get a token."""
        return iter(self._entries.values())

    def is_at(self, address: str, entry: PodEntry) -> bool:
        """Whether *address* answers for *entry* at this moment."""
        return not entry.gone and self._index.get(address) is entry.record

    async def entry_at(self, address: str) -> PodEntry | None:
        """The pod at *address*; where there is none yet, it is waited for (`parking`, 5 s at most)."""
        record = await self._parking.find(address)
        return _owner(record) if record is not None else None

    async def standing(self, entry: PodEntry, address: str) -> Standing | Refusal:
        """What to decide on for *entry*, whom *address* answers for. Without doubt nothing is read or awaited."""
        pods_silent, assigned_silent = self._silent(self.pods), self._silent(self.assigned)
        if not (entry.doubtful or pods_silent or assigned_silent):
            return Standing(entry.facts, entry.assigned, certain=True)
        try:
            now = entry.facts
            if entry.doubtful or pods_silent:
                pod = await self._reads.pod(entry.namespace, entry.name, entry.uid)
                if pod is None or pod.metadata.uid != entry.uid or not _eligible(pod):
                    self._measures.retired_by_read += 1
                    self._retire(entry)
                    return GONE
                if address not in pod.addresses:
                    return GONE
                now = facts(pod)
            assigned = entry.assigned
            if assigned_silent:
                listed = await self._reads.assigned()
                known = {each.identity.metadata.name: each.usable_since for each in assigned}
                assigned = tuple(
                    project(each, known.get(each.spec.azure_identity_ref.metadata.name, self._clock()))
                    for each in listed
                    if self._names(each) == (entry.namespace, entry.name)
                )
        except UnansweredError:
            if self._refuse_stale:
                return _UNVERIFIED
            self._measures.unverified += 1
            return Standing(entry.facts, entry.assigned, certain=False)
        return Standing(now, assigned, certain=False)

    # What the watches tell.

    def pod_upserted(self, pod: Pod) -> None:
        """A pod of this node is, or has become, like this."""
        entry = self._entries.get(pod.key)
        if entry is not None and entry.uid != pod.metadata.uid:
            self._retire(entry)
            entry = None
        if not _eligible(pod):
            if entry is not None:
                self._retire(entry)
        elif entry is None:
            self._enter(pod, confirmed=True)
        else:
            before = entry.addresses
            entry.update(pod)
            self._addresses.release((each for each in before if each not in pod.addresses), entry)
            self._addresses.claim(pod.addresses, entry)

    def pod_deleted(self, pod: Pod) -> None:
        """A pod of this node is gone."""
        entry = self._entries.get(pod.key)
        if entry is not None and entry.uid == pod.metadata.uid:
            self._retire(entry)

    def assigned_upserted(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> None:
        """An assigned identity is, or has become, like this."""
        names = self._names(new)
        if old is not None and (former := self._names(old)) is not None and former != names:
            self._unassign(former, old.key)
        if names is None:
            return
        bucket = self._assigned.setdefault(names, {})
        before = bucket.get(new.key)
        since = before.usable_since if before is not None and before.usable else self._clock()
        bucket[new.key] = project(new, since)
        self._publish(names)

    def assigned_deleted(self, old: AzureAssignedIdentity) -> None:
        """An assigned identity is gone."""
        names = self._names(old)
        if names is not None:
            self._unassign(names, old.key)

    # Behind them.

    def _names(self, assigned: AzureAssignedIdentity) -> PodKey | None:
        """The pod that it names, or None if that pod would be on another node."""
        spec = assigned.spec
        return (spec.pod_namespace, spec.pod) if spec.nodename in {"", self._node} else None

    def _unassign(self, names: PodKey, key: tuple[str, str]) -> None:
        bucket = self._assigned.get(names, {})
        if bucket.pop(key, None) is None:
            return
        if not bucket:
            del self._assigned[names]
        self._publish(names)

    def _publish(self, names: PodKey) -> None:
        entry = self._entries.get(names)
        if entry is not None:
            entry.assign(tuple(self._assigned.get(names, {}).values()))

    def _enter(self, pod: Pod, *, confirmed: bool) -> PodEntry:
        entry = PodEntry(pod, tuple(self._assigned.get(pod.key, {}).values()), confirmed=confirmed)
        self._entries[pod.key] = entry
        self._addresses.claim(entry.addresses, entry)
        return entry

    def _retire(self, entry: PodEntry) -> None:
        key = (entry.namespace, entry.name)
        if self._entries.get(key) is entry:
            del self._entries[key]
        entry.retire()
        self._addresses.release(entry.addresses, entry)

    async def _ask_about(self, address: str) -> None:
        """One read about an address that is unknown or contested."""
        try:
            pods = await self._reads.at_address(address, self._node)
        except UnansweredError:
            return
        there = {pod.metadata.uid for pod in pods}
        for claimant in self._addresses.claimants(address):
            if not claimant.confirmed and claimant.uid not in there:
                # A read knew of it once and the watch never has: no event will ever take it away.
                self._retire(claimant)
        live = [pod for pod in pods if _eligible(pod) and address in pod.addresses]
        if len(live) > 1:
            # An address passes on only when the former pod's sandbox is down, and that one is ending then.
            live = [pod for pod in live if not pod.ending]
        if len(live) != 1:
            return
        [pod] = live
        entry = self._entries.get(pod.key)
        if entry is None:
            entry = self._enter(pod, confirmed=False)
        elif entry.uid != pod.metadata.uid:
            # Which of the two is the later one only the watch can tell.
            return
        elif address not in entry.addresses:
            entry.doubt(address)
            self._addresses.claim([address], entry)
        self._addresses.settle(address, entry)


class PodHandler:
    """The pod watch's handler."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def upserted(self, old: Pod | None, new: Pod) -> None:  # noqa: ARG002 - the feed compares with its own entry
        self._feed.pod_upserted(new)

    def deleted(self, old: Pod) -> None:
        self._feed.pod_deleted(old)


class AssignedHandler:
    """The assigned identities' watch's handler."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def upserted(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> None:
        self._feed.assigned_upserted(old, new)

    def deleted(self, old: AzureAssignedIdentity) -> None:
        self._feed.assigned_deleted(old)


def _eligible(pod: Pod) -> bool:
    """Whether the pod may ever get a token: its address is its own, and something in it may still run."""
    return not pod.spec.host_network and not pod.finished


def _owner(record: PodRecord) -> PodEntry | None:
    return record.owner if isinstance(record.owner, PodEntry) else None
