"""The cluster cache: the pods of this node with their addresses and identities, kept equal to the API server.

Its parts are `watches` (changes), `pod_registry` (pods and their addresses), `assignments` or `managed_mode`
(identities) and `exemptions` (exceptions). Where the watches may be behind (an unknown or contested address, an ending
pod, a silent watch) it also sends a bounded number of reads (`ownership_reads`, `verification_reads`).
"""

import asyncio
import logging
import random as random_module
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from _native.index import Index, PodRecord
from nmi.identity.address_evidence import AddressEvidence, Evidence
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.assignments import IdentityAssignments, MicAssignments
from nmi.identity.decide import PodFacts, Wait, wait_if_stopped
from nmi.identity.exemptions import Exemptions
from nmi.identity.kept_parts import KeptParts
from nmi.identity.lookup_wait import LookupWait
from nmi.identity.managed_mode import BoundIdentities
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.ownership_reads import OwnershipReads
from nmi.identity.pod_entry import PodEntry
from nmi.identity.pod_registry import AddressOwners, PodRegistry
from nmi.identity.pods import facts
from nmi.identity.suspensions import Suspensions
from nmi.identity.verification_reads import PendingReads, UnansweredError, VerificationReads
from nmi.identity.watches import PodUpdates, Watches
from nmi.node.rtnetlink import Message, Unresolved
from nmi.refusal import Reason, Refusal
from podidentity.kube.client import Client
from podidentity.kube.informer import SILENCE_SECONDS, Informer
from podidentity.resources import EXCEPTIONS, PODS, Pod
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 0.5
"""How soon NMI notices that a silent watch delivers again."""
SHOWN_MAX: Final = 300
"""Pods in `state`; a node runs 110, or 250 at most."""
IDENTITIES_MAX: Final = 300
"""Identities of one pod in `state`."""

_UNVERIFIED: Final = Refusal(
    Reason.UPSTREAM_UNAVAILABLE,
    "This pod cannot be verified now; try again.",
    "a watch is silent and the API server does not respond; --stale-identity=serve would continue to serve",
    retry_after=5.0,
)

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
"""The valid names of namespaces and pods; no other text is put into the path of a read."""


class DecisionInput(msgspec.Struct, frozen=True):
    """The input of a decision about one pod."""

    pod: PodFacts
    assigned: tuple[AssignedIdentity, ...]
    certain: bool
    """Whether a ready response may be made from it: it comes from the watches, not from a read or from stale data."""
    verified: bool = False
    """Whether reads of the last second confirm it. If so, it expires and must be requested again."""


class ClusterCache:
    """Owner of the watches, the pod entries and the reads. `run` is its task; `aclose` ends what `run` does not."""

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
        on_gone: Callable[[PodEntry], None] = lambda _entry: None,
    ) -> None:
        """Build the parts.

        *managed*: identities come from the bindings of the pod's namespace instead of from MIC.

        *scale_features*: MIC labels assigned identities with their node, so only this node's are watched.

        *exception_namespaces*: the namespaces in which exceptions are effective; all if empty.

        *refuse_stale*: refuse if a watch is silent and the API server does not respond either, instead of serving.

        *log_limit* bounds the lines about failures before the first lists are complete.

        *on_gone* is called with each removed pod, when no request can find it any more.
        """
        self._index = index
        self._measures = measures
        self._node = node
        self._refuse_stale = refuse_stale
        self._reads = VerificationReads(client, clock)
        self._pending_reads = PendingReads()
        self._address_waits = LookupWait(park_seconds=park_seconds, clock=clock)
        self._name_waits = LookupWait(park_seconds=park_seconds, clock=clock)
        self._evidence = AddressEvidence()
        self._suspensions = Suspensions(clock=clock, wall_clock=wall_clock)
        self.watches = Watches(
            client,
            on_doubt=self.check,
            silence_seconds=silence_seconds,
            log_limit=log_limit,
            clock=clock,
            random=random,
        )
        self._exemptions = Exemptions(mic_namespace=mic_namespace, namespaces=exception_namespaces, clock=clock)
        self._assignments: IdentityAssignments = (
            BoundIdentities(self._reads, clock=clock)
            if managed
            else MicAssignments(self._reads, node=node, scale_features=scale_features, clock=clock)
        )
        self._addresses = AddressOwners(
            index, self._address_waits, self._evidence, self._suspensions, self._pending_reads
        )
        self.pods = PodRegistry(
            self._addresses,
            self._assignments,
            self._exemptions,
            waits=self._name_waits,
            suspensions=self._suspensions,
            pending_reads=self._pending_reads,
            on_gone=on_gone,
        )
        self.ownership_reads = OwnershipReads(
            self._reads, self.pods, self._addresses, self._pending_reads, measures, node=node
        )
        self._assignments.add_watches(self.watches, self.pods.reassign)
        exceptions = PodUpdates(self._exemptions.upserted, self._exemptions.deleted, self.pods.reexempt)
        self.watches.add("exceptions", EXCEPTIONS, exceptions)
        self.watches.add("pods", PODS, self.pods, field_selector=f"spec.nodeName={node}", keep=KeptParts().pod)
        # No ready response is served before the first lists are complete: `check` ends this.
        index.suspended = True
        self._expose(measures)

    def _expose(self, measures: IdentityMetrics) -> None:
        """Let *measures* read the gauges from the parts."""
        measures.watch(
            self.watches.by_name,
            {
                "index_size": lambda: len(self._index),
                "parked": lambda: self._address_waits.waiting + self._name_waits.waiting,
                "stale": lambda: float(self.stale()),
                "failed_reads": lambda: self._reads.failed,
                "assignments_beyond_limit": lambda: self._assignments.beyond_limit,
                "exceptions": lambda: len(self._exemptions),
                "exceptions_seen": lambda: self._exemptions.seen,
                "suspended_pods": lambda: self._suspensions.pods,
            },
            self._suspensions.counts,
        )

    # Start and end.

    async def run(self) -> None:
        """Keep the index equal to the API server until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watches.run(), name="watch the API server")
            tasks.create_task(self._watch_the_watches(), name="watch for silence")
            tasks.create_task(self._suspensions.run(self.ownership_reads.still_owns), name="verify suspended pods")

    async def synced(self) -> None:
        """Wait until every first list is in the index."""
        await self.watches.synced()
        self.check()

    async def aclose(self) -> None:
        """Cancel the reads that requests have begun."""
        await self._address_waits.aclose()
        await self._name_waits.aclose()
        await self._reads.aclose()

    def silent(self) -> list[str]:
        """Return the names of the watches that are silent past their deadline, or have not delivered anything yet."""
        return self.watches.silent()

    def stale(self) -> bool:
        """Return whether a watch is silent."""
        return bool(self.watches.silent())

    def check(self) -> None:
        """Suspend ready responses while a watch is silent, and resume them afterwards."""
        silent = self.silent()
        if bool(silent) == self._index.suspended:
            return
        self._index.suspended = bool(silent)
        if silent:
            log.warning(
                "watch silent, every grant is verified by a read; check that the API server responds to this node",
                extra={"node": self._node, "resource": ", ".join(silent)},
            )
        else:
            log.info("no watch is silent", extra={"node": self._node, "count": len(self.pods)})

    async def _watch_the_watches(self) -> None:
        while True:
            self.check()
            # No watch becomes silent before its patience ends. The end of a silence is noticed by polling.
            await asyncio.sleep(max(CHECK_SECONDS, self.watches.patience()))

    def state(self) -> dict[str, object]:
        """Return the current state for the debug page: bounded, without secrets and without client ids."""
        entries = [
            _pod_state(entry, self._suspensions.of(entry))
            for _, entry in zip(range(SHOWN_MAX), self.pods, strict=False)
        ]
        return {
            "pods": entries,
            "pods_left_out": len(self.pods) - len(entries),
            "addresses": len(self._index),
            "suspended": self._index.suspended,
            "watches": {name: _watch_state(watch) for name, watch in self.watches.by_name.items()},
            "silent": self.silent(),
            "exceptions": len(self._exemptions),
            "suspended_pods": self._suspensions.pods,
            "network": self._evidence.sizes() | {"remembered": self._suspensions.remembered},
            "held": self._measures.held,
            "parked": self._address_waits.waiting + self._name_waits.waiting,
        }

    # Reports about the node's network.

    def network_changed(self, messages: Iterable[Message]) -> None:
        """Apply changes that the kernel reports. Pods whose address changed its owner by them are suspended now."""
        self._suspend(self._evidence.apply(messages))

    def network_listed(self, messages: Iterable[Message]) -> None:
        """Apply a complete list, at the start and after lost reports."""
        self._suspend(self._evidence.replace(messages))

    def unresolved_addresses(self) -> list[Unresolved]:
        """Return the pod addresses whose end local evidence would not show (`nmi.node.neighbour_discovery`)."""
        return self._evidence.unresolved()

    def _suspend(self, changes: Iterable[Evidence]) -> None:
        changes = list(changes)
        for evidence in changes:
            # A read that is on its way may show the former owner. All are marked first, in case a suspension fails.
            self._pending_reads.changed(evidence.address)
        for evidence in changes:
            self._suspensions.begin(evidence, self._addresses.candidates(evidence.address))

    # Lookups by requests.

    def entries(self) -> Iterable[PodEntry]:
        """Return every pod that may get a token."""
        return self.pods

    def is_at(self, address: str, entry: PodEntry) -> bool:
        """Return whether *address* belongs to *entry* now."""
        return not entry.gone and self._index.get(address) is entry.record

    async def entry_at(self, address: str) -> PodEntry | Refusal | None:
        """Return the pod at *address*. If there is none yet, wait for it (`lookup_wait`, 5 s at most).

        A Refusal: too many requests wait.
        """
        return _owner(await self._address_waits.find(address, self._index.get, self.ownership_reads.find_owner))

    def unknown_for(self, address: str) -> float:
        """Return for how many seconds `entry_at` returns None for *address* without a lookup."""
        return self._address_waits.unknown_for(address)

    async def entry_named(self, namespace: str, name: str) -> PodEntry | Refusal | None:
        """Return the pod of this node with that name, on any network; wait for it like for an address.

        The kubelet may act for a pod (mount a volume) at the same moment at which the watch delivers the pod.
        """
        # The header `podname` must not reach other paths of the API server.
        if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
            return None
        key = f"{namespace}/{name}"
        return _owner(await self._name_waits.find(key, self.pods.record_of, self.ownership_reads.find_pod))

    async def decision_input(self, entry: PodEntry, address: str = "") -> DecisionInput | Wait | Refusal:
        """Return the input of a decision about *entry*, the owner of *address*; empty if a request named the pod.

        A Wait means that the pod may have lost its address (`wait_if_stopped`), by the cache or by a read. Without
        doubt there is no read and no await. A silent watch of exceptions is a doubt, too: a read confirms the
        exemption. An unconfirmed exemption is served or refused by the same setting.
        """
        silent = self.silent()
        if not (entry.doubtful or silent):
            return DecisionInput(entry.facts, entry.assigned, certain=True)
        # Before any read: a read shows the former pod until its kubelet has reported the end.
        stopped = wait_if_stopped(entry.pod, named=not address, suspended=entry.suspended)
        if stopped is not None:
            return stopped
        try:
            pod = await self.ownership_reads.verify(entry, address) if entry.doubtful or "pods" in silent else entry.pod
            if not isinstance(pod, Pod):
                return pod
            exempt = self._exemptions.reason(pod)
            if "exceptions" in silent:
                exempt = self._exemptions.reason_given(pod, await self._reads.exceptions(entry.namespace))
            # The label and the exemption of now select the identities, not those that the watch has delivered.
            now = facts(pod, exempt)
            if any(name in silent for name in self._assignments.watched):
                assigned = await self._assignments.read(now)
            else:
                assigned = self._assignments.of(now)
        except UnansweredError:
            if self._refuse_stale:
                return _UNVERIFIED
            # An outage of the API server must not take the tokens of all pods: the last known state counts.
            self._measures.unverified += 1
            return DecisionInput(entry.facts, entry.assigned, certain=False)
        return DecisionInput(now, assigned, certain=False, verified=True)


def _owner(result: PodRecord | Refusal | None) -> PodEntry | Refusal | None:
    if not isinstance(result, PodRecord):
        return result
    return result.owner if isinstance(result.owner, PodEntry) else None


def _pod_state(entry: PodEntry, suspended: Mapping[str, str]) -> dict[str, object]:
    """Return the state of *entry* for the debug page; *suspended* maps its suspended addresses to the evidence."""
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
                "identity": "/".join(assignment.identity.key),
                "binding": assignment.binding,
                "status": assignment.status,
                "usable": assignment.usable,
            }
            for assignment in entry.assigned[:IDENTITIES_MAX]
        ],
    }


def _watch_state(watch: Informer[Any]) -> dict[str, object]:
    """Return the state of *watch* for the debug page."""
    age = watch.staleness_seconds()
    return {
        "silent_seconds": round(age, 1) if age < float("inf") else None,
        "restarts": watch.restarts,
        "objects": len(watch.store),
    }
