"""What the API server says, as requests need it: who is at an address, what to decide on, and how sure that is.

The rooms below keep it equal to the API server: `watching` brings changes, `roster` and `addresses` hold the pods,
`assignments` (or `managed`) their identities, `exempting` the exceptions. Where the watches may be behind (an unknown
or contested address, an ending pod, a silent watch) a few bounded reads are asked as well. A read never overwrites what
a watch has said, since the two may cross: it only adds an unconfirmed pod, settles whose an address is, or finds a pod
gone.
"""

import asyncio
import logging
import random as random_module
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from _native.index import Index, PodRecord
from nmi.identity.address_evidence import AddressEvidence, Evidence
from nmi.identity.address_owners import AddressOwners
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.assignments import IdentityAssignments, MicAssignments
from nmi.identity.container_starts import owner_of
from nmi.identity.decide import PodFacts, Wait
from nmi.identity.exemptions import Exemptions
from nmi.identity.lookup_wait import LookupWait
from nmi.identity.managed_mode import BoundIdentities
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pending_reads import PendingReads
from nmi.identity.pod_registry import PodRegistry
from nmi.identity.pods import PodEntry, facts, own_addresses
from nmi.identity.stopped_pods import wait_if_stopped, wait_if_suspended
from nmi.identity.suspensions import Suspensions
from nmi.identity.verification_reads import UnansweredError, VerificationReads
from nmi.identity.watches import Watches
from nmi.node.rtnetlink import Message, Unresolved
from nmi.refusal import Reason, Refusal
from podidentity.kube.client import Client
from podidentity.kube.informer import SILENCE_SECONDS
from podidentity.resources import EXCEPTIONS, PODS, Pod
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 0.5
"""How soon a watch that speaks again is noticed."""
SHOWN_MAX: Final = 300
"""Pods in `state`; a node runs 110, or 250 at most."""

GONE: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "The pod that this request is for is not there any longer.",
    "the pod has been deleted, has finished, or its address has passed to another; nothing to do",
)
_UNVERIFIED: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "This pod cannot be verified at the moment; try again.",
    "a watch is silent and the API server does not answer; --stale-identity=serve would go on serving",
    retry_after=5.0,
)

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
"""What a namespace or a pod may be called; nothing else gets into the path of a read."""


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """What a decision about one pod is made on."""

    pod: PodFacts
    assigned: tuple[AssignedIdentity, ...]
    certain: bool
    """Whether a ready answer may be made of it: the watches vouch for it, not a read or a hope."""
    verified: bool = False
    """Whether reads that were sent less than a second before vouch for it: it expires, and must be asked for again."""


class ClusterCache:
    """Owns the watches, the entries and the reads. `run()` is its task; `aclose()` ends what `run` does not."""

    def __init__(
        self,
        client: Client,
        index: Index,
        measures: IdentityMetrics,
        *,
        node: str,
        managed: bool = False,
        scale_features: bool = True,
        mic_namespace: str = "default",
        exception_namespaces: Collection[str] = (),
        refuse_stale: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
        park_seconds: float = 5.0,
        log_limit: LogLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """*managed*: identities come from the bindings of the pod's namespace instead of from MIC.

        *scale_features*: MIC labels assigned identities with their node, so only this node's are watched.

        *exception_namespaces*: where exceptions count; everywhere if empty.

        *refuse_stale*: refuse where a watch is silent and the API server does not answer either, instead of serving.

        *log_limit* bounds the lines about failures before the first lists are complete.
        """
        self._index = index
        self._measures = measures
        self._node = node
        self._refuse_stale = refuse_stale
        self._on_gone: Callable[[PodEntry], None] = lambda _entry: None
        self._reads = VerificationReads(client, clock)
        self._address_waits = LookupWait(index.get, self._ask_about, park_seconds=park_seconds, clock=clock)
        self._by_name = LookupWait(self._record_named, self._ask_for, park_seconds=park_seconds, clock=clock)
        self._pending_reads = PendingReads()
        self._evidence = AddressEvidence()
        self._addresses = AddressOwners(
            index,
            self._address_waits.arrived,
            claimed=self._is_claimed,
            released=self._evidence.release,
            changed=self._pending_reads.changed,
        )
        self._suspensions = Suspensions(self._addresses.candidates, self._still_has, clock=clock, wall_clock=wall_clock)
        self.watches = Watches(
            client,
            on_doubt=self.check,
            silence_seconds=silence_seconds,
            log_limit=log_limit,
            clock=clock,
            random=random,
        )
        self._exemptions = Exemptions(
            self._reexempt, mic_namespace=mic_namespace, namespaces=exception_namespaces, clock=clock
        )
        self._assignments: IdentityAssignments = (
            BoundIdentities(self.watches, self._reads, self._reassign, clock=clock)
            if managed
            else MicAssignments(
                self.watches, self._reads, self._reassign, node=node, scale_features=scale_features, clock=clock
            )
        )
        self.pods = PodRegistry(
            self._addresses,
            self._assignments.of,
            self._exemptions.why,
            lambda entry: self._by_name.arrived(entry.key),
            self._has_gone,
            reported=self._suspensions.changed,
            heard=self._pending_reads.changed,
        )
        self.watches.add("exceptions", EXCEPTIONS, self._exemptions)
        self.watches.add("pods", PODS, self.pods, field_selector=f"spec.nodeName={node}")
        index.suspended = True
        measures.watch(
            self.watches.by_name,
            {
                "index_size": lambda: len(index),
                "parked": lambda: self._address_waits.waiting + self._by_name.waiting,
                "stale": lambda: float(self.stale()),
                "failed_reads": lambda: self._reads.failed,
                "assignments_beyond_limit": lambda: self._assignments.beyond_limit,
                "exceptions": lambda: len(self._exemptions),
                "exceptions_seen": lambda: self._exemptions.seen,
                "suspended_pods": lambda: self._suspensions.pods,
            },
            self._suspensions.counts,
        )

    def when_gone(self, tell: Callable[[PodEntry], None]) -> None:
        """*tell* is called with each pod that is gone, when no request can find it any more."""
        self._on_gone = tell

    # The life of the feed.

    async def run(self) -> None:
        """Keep the index equal to the API server until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watches.run(), name="watch the API server")
            tasks.create_task(self._watch_the_watches(), name="watch for silence")
            tasks.create_task(self._suspensions.run(), name="verify suspended pods")

    async def synced(self) -> None:
        """Wait until every first list is in the index."""
        await self.watches.synced()
        self.check()

    async def aclose(self) -> None:
        """End the reads that requests have begun."""
        await self._address_waits.aclose()
        await self._by_name.aclose()
        await self._reads.aclose()

    def silent(self) -> list[str]:
        """The names of the watches that are silent past their deadline (or have not spoken yet)."""
        return self.watches.silent()

    def stale(self) -> bool:
        """Whether there is such a watch."""
        return bool(self.watches.silent())

    def check(self) -> None:
        """Suspend ready answers while a watch is silent; let them be served again when it speaks."""
        silent = self.silent()
        if bool(silent) == self._index.suspended:
            return
        self._index.suspended = bool(silent)
        if silent:
            log.warning(
                "a watch is silent and every grant is verified by a read: see whether the API server answers this node",
                extra={"node": self._node, "resource": ", ".join(silent)},
            )
        else:
            log.info("the watches speak, nothing to do", extra={"node": self._node, "count": len(self.pods)})

    async def _watch_the_watches(self) -> None:
        while True:
            self.check()
            await asyncio.sleep(max(CHECK_SECONDS, self.watches.patience()))

    def state(self) -> dict[str, object]:
        """What is known now, for the debug page: bounded, without secrets and without client ids."""
        entries = [
            _shown(entry, self._suspensions.of(entry)) for _, entry in zip(range(SHOWN_MAX), self.pods, strict=False)
        ]
        return {
            "pods": entries,
            "pods_left_out": len(self.pods) - len(entries),
            "addresses": len(self._index),
            "suspended": self._index.suspended,
            "watches": {
                name: {
                    "silent_seconds": round(age, 1) if (age := each.staleness_seconds()) < float("inf") else None,
                    "restarts": each.restarts,
                    "objects": len(each.store),
                }
                for name, each in self.watches.by_name.items()
            },
            "silent": self.silent(),
            "exceptions": len(self._exemptions),
            "suspended_pods": self._suspensions.pods,
            "network": self._evidence.sizes() | {"remembered": self._suspensions.remembered},
            "held": self._measures.held,
            "parked": self._address_waits.waiting + self._by_name.waiting,
        }

    @property
    def turned_away(self) -> int:
        """Requests from unknown addresses, or for unknown names, that found every place taken."""
        return self._address_waits.turned_away + self._by_name.turned_away

    # What the node's own network shows.

    def network_changed(self, messages: Iterable[Message]) -> None:
        """The kernel has reported changes: pods whose address has changed hands by them are suspended now."""
        self._take_evidence(self._evidence.apply(messages))

    def network_listed(self, messages: Iterable[Message]) -> None:
        """Everything that there is now: at first, and where reports were lost."""
        self._take_evidence(self._evidence.replace(messages))

    def unresolved_addresses(self) -> list[Unresolved]:
        """Return the pod addresses whose end local evidence would not show (`nmi.node.neighbour_discovery`)."""
        return self._evidence.unresolved()

    def _is_claimed(self, address: str, entry: PodEntry) -> None:
        self._evidence.claim(address)
        self._suspensions.claimed(address, entry)

    def _take_evidence(self, found: Sequence[Evidence]) -> None:
        for evidence in found:
            self._pending_reads.changed(evidence.address)
        self._suspensions.begin(found)

    # What requests ask.

    def entries(self) -> Iterable[PodEntry]:
        """Every pod that may get a token."""
        return self.pods

    def is_at(self, address: str, entry: PodEntry) -> bool:
        """Whether *address* answers for *entry* at this moment."""
        return not entry.gone and self._index.get(address) is entry.record

    async def entry_at(self, address: str) -> PodEntry | None:
        """The pod at *address*; where there is none yet, it is waited for (`parking`, 5 s at most)."""
        record = await self._address_waits.find(address)
        return _owner(record) if record is not None else None

    async def entry_named(self, namespace: str, name: str) -> PodEntry | None:
        """The pod of this node by that name, on whichever network; waited for like an address.

        The kubelet may act for a pod (mount a volume) in the moment it learns of it, as the watch does.
        """
        if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
            return None
        record = await self._by_name.find(f"{namespace}/{name}")
        return _owner(record) if record is not None else None

    async def decision_input(self, entry: PodEntry, address: str = "") -> DecisionInput | Wait | Refusal:
        """What to decide on for *entry*, whom *address* answers for, or who was named (then *address* is empty).

        A Wait: by what is known, or by what a read says, the pod may have lost its address (`stopping`). Without doubt
        nothing is read or awaited. A silent watch of exceptions is a doubt like any other: an exemption
        is confirmed by a read, and what nobody can confirm is served or refused by the same switch.
        """
        silent = self.silent()
        if not (entry.doubtful or silent):
            return DecisionInput(entry.facts, entry.assigned, certain=True)
        if (stopped := wait_if_suspended(entry, named=not address)) is not None:
            return stopped
        try:
            pod = await self._verified(entry, address) if entry.doubtful or "pods" in silent else entry.pod
            if not isinstance(pod, Pod):
                return pod
            exempt = self._exemptions.why(pod)
            if "exceptions" in silent:
                exempt = self._exemptions.why_given(pod, await self._reads.exceptions(entry.namespace))
            now = facts(pod, exempt)
            if any(name in silent for name in self._assignments.watched):
                assigned = await self._assignments.read(now)
            else:
                assigned = self._assignments.of(now)
        except UnansweredError:
            if self._refuse_stale:
                return _UNVERIFIED
            self._measures.unverified += 1
            return DecisionInput(entry.facts, entry.assigned, certain=False)
        return DecisionInput(now, assigned, certain=False, verified=True)

    # Behind them.

    async def _verified(self, entry: PodEntry, address: str) -> Pod | Wait | Refusal:
        """The pod of *entry* as a read shows it, where that may be served. Raises UnansweredError."""
        # A read from before the watch told of a change says less than the watch: it is not shared across one.
        as_known = f"{entry.uid}/{entry.record.generation}"
        read = await self._reads.pod(entry.namespace, entry.name, as_known)
        if read is None or read.metadata.uid != entry.uid or read.finished:
            self._measures.retired_by_read += 1
            self.pods.retire(entry)
            return GONE
        if address and address not in own_addresses(read):
            return GONE
        return wait_if_stopped(read, named=not address) or read

    async def _still_has(self, entry: PodEntry, address: str) -> bool:
        """Whether reads made now show that *address* is the pod's, and no other pod there was started as late."""
        try:
            read = await self._reads.pod_now(entry.namespace, entry.name)
            there = await self._reads.at_address(address, self._node)
        except UnansweredError:
            return False
        if read is None or read.metadata.uid != entry.uid or read.finished:
            if not entry.gone:
                self._measures.retired_by_read += 1
                self.pods.retire(entry)
            return False
        listed = [each for each in there if address in own_addresses(each)]
        rivals = any(each.metadata.uid != entry.uid and not each.finished for each in listed)
        owner = owner_of(listed) if rivals else read
        return (
            address in own_addresses(read)
            and wait_if_stopped(read, named=False) is None
            and owner is not None
            and owner.metadata.uid == entry.uid
        )

    def _is_suspended(self, pod: Pod) -> bool:
        """Whether local evidence speaks against the pod that a read shows."""
        entry = self.pods.get(*pod.key)
        return entry is not None and entry.uid == pod.metadata.uid and entry.suspended

    def _has_gone(self, entry: PodEntry) -> None:
        self._suspensions.left(entry)
        self._on_gone(entry)

    def _reassign(self, namespace: str, name: str) -> None:
        self.pods.reassign(namespace, name)

    def _reexempt(self, namespace: str) -> None:
        self.pods.reexempt(namespace)

    def _record_named(self, key: str) -> PodRecord | None:
        entry = self.pods.get(*key.split("/", 1))
        return entry.record if entry is not None else None

    async def _ask_for(self, key: str) -> bool:
        """One read for a pod that was named and is not known; whether it has to be asked again."""
        namespace, name = key.split("/", 1)
        with self._pending_reads.read() as read:
            try:
                pod = await self._reads.pod(namespace, name)
            except UnansweredError:
                return False
            if read.is_outdated((namespace, name)):
                return True
        there = self.pods.get(namespace, name)
        if pod is not None and not pod.finished and pod.spec.node_name == self._node and there is None:
            self.pods.enter(pod, confirmed=False)
        return False

    async def _ask_about(self, address: str) -> bool:
        """One read about an address that is unknown or contested; whether it has to be asked again."""
        with self._pending_reads.read() as read:
            try:
                pods = await self._reads.at_address(address, self._node)
            except UnansweredError:
                return False
            if read.is_outdated(address, *(pod.key for pod in pods)):
                return True
        there = {pod.metadata.uid for pod in pods}
        for claimant in self._addresses.candidates(address):
            if not claimant.confirmed and claimant.uid not in there:
                # A read knew of it once and the watch never has: no event will ever take it away.
                self.pods.retire(claimant)
        owner = owner_of([pod for pod in pods if address in own_addresses(pod)])
        if owner is not None and not self._is_suspended(owner):
            self._settle(address, owner)
        return False

    def _settle(self, address: str, pod: Pod) -> None:
        """A read says that *address* is *pod*'s."""
        entry = self.pods.get(*pod.key)
        if entry is None:
            entry = self.pods.enter(pod, confirmed=False)
        elif entry.uid != pod.metadata.uid:
            # Which of the two is the later one only the watch can tell.
            return
        elif address not in entry.addresses:
            entry.doubt(address)
            self._addresses.claim([address], entry)
        self._addresses.settle(address, entry)


def _owner(record: PodRecord) -> PodEntry | None:
    return record.owner if isinstance(record.owner, PodEntry) else None


def _shown(entry: PodEntry, suspended: Mapping[str, str]) -> dict[str, object]:
    return {
        "pod": entry.key,
        "uid": entry.uid,
        "addresses": list(entry.addresses),
        "label": entry.facts.label,
        "exempt": entry.facts.exempt,
        "doubtful": entry.doubtful,
        "terminated": entry.terminated,
        "sandbox_down": entry.sandbox_down,
        "suspended": dict(suspended),
        "host_network": entry.pod.spec.host_network,
        "identities": [
            {
                "identity": "/".join(each.identity.key),
                "binding": each.binding,
                "status": each.status,
                "usable": each.usable,
            }
            for each in entry.assigned[:SHOWN_MAX]
        ],
    }
