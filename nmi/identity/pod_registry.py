"""All pod entries of this node, by name and by address.

`PodRegistry` is the handler of the pod watch, and applies the changes of the other watches to the entries. Each change
takes effect before the handler returns, so that no decision uses the former state.

`AddressOwners` is the only writer of the native index. The index maps an address to a pod only while exactly one live
pod has that address. Two pods with one address mean that the watch is behind: the index maps the address to no pod
until one of them is removed, or a read from the API server settles the owner.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

from _native.index import Index, PodRecord
from nmi.identity.address_evidence import AddressEvidence
from nmi.identity.assignments import IdentityAssignments
from nmi.identity.exemptions import Exemptions
from nmi.identity.lookup_wait import LookupWait
from nmi.identity.pod_entry import PodEntry
from nmi.identity.pods import newest_running
from nmi.identity.suspensions import Suspensions
from nmi.identity.verification_reads import PendingReads
from nmi.identity.watches import AffectedPods
from podidentity.resources import Pod

log = logging.getLogger(__name__)

PodKey = tuple[str, str]
"""Namespace and name."""


class AddressOwners:
    """The candidates of each address: the pods that have it. Only `_point` changes the owner in the index."""

    def __init__(
        self,
        index: Index,
        waits: LookupWait,
        evidence: AddressEvidence,
        suspensions: Suspensions,
        pending_reads: PendingReads,
    ) -> None:
        """Store the parts that follow the addresses of pods. *waits* are those for an address."""
        self._index = index
        self._waits = waits
        self._evidence = evidence
        self._suspensions = suspensions
        self._pending_reads = pending_reads
        self._candidates: dict[str, list[PodEntry]] = {}
        self._settled: dict[str, PodEntry] = {}
        """The owners of contested addresses, as reads have shown them."""

    def candidates(self, address: str) -> tuple[PodEntry, ...]:
        """Return every pod that has *address*."""
        return tuple(self._candidates.get(address, ()))

    def add(self, addresses: Iterable[str], entry: PodEntry) -> None:
        for address in addresses:
            candidates = self._candidates.setdefault(address, [])
            if entry not in candidates:
                candidates.append(entry)
                # Before the index maps the address: a suspended pod must not be served for a moment.
                self._evidence.track(address)
                self._suspensions.address_added(address, entry)
                self._reopen(address)

    def remove(self, addresses: Iterable[str], entry: PodEntry) -> None:
        for address in addresses:
            candidates = self._candidates.get(address)
            if candidates is None or entry not in candidates:
                continue
            candidates.remove(entry)
            if not candidates:
                del self._candidates[address]
                self._evidence.untrack(address)
            self._pending_reads.changed(address)
            # A settled owner remains while others contest the address: the end of one of them contradicts no read.
            if self._settled.get(address) is entry or len(candidates) < 2:
                self._settled.pop(address, None)
            self._point(address)

    def started_again(self, entry: PodEntry) -> None:
        """Discard the settled owner: a container of the pod started, possibly in a newer sandbox with the same
        address.
        """
        for address in entry.addresses:
            if entry in self._candidates.get(address, ()):
                self._reopen(address)

    def settle(self, address: str, entry: PodEntry) -> None:
        """Make *entry* the owner of a contested *address*, because a read has just shown it, until the next change."""
        candidates = self._candidates.get(address, [])
        if entry in candidates and len(candidates) > 1:
            self._settled[address] = entry
            self._point(address)

    def _reopen(self, address: str) -> None:
        """Discard the owner that a read settled."""
        self._pending_reads.changed(address)
        self._settled.pop(address, None)
        self._point(address)

    def _point(self, address: str) -> None:
        candidates = self._candidates.get(address, [])
        # Two pods at one address mean that the watch is behind, so neither is served without a read.
        owner = candidates[0] if len(candidates) == 1 else self._settled.get(address)
        try:
            present = self._index.get(address)
            if owner is not None and owner.record is present:
                return  # a decision about the owner remains valid
            if present is not None:
                self._index.remove(address, present)
            if owner is not None:
                self._index.put(address, owner.record)
        except ValueError:
            log.warning(
                "invalid IP address in a pod's status, the pod gets no tokens; look at the pod's status",
                extra={"pod": candidates[0].key if candidates else ""},
            )
            return
        for candidate in candidates:
            # Requests that wait for, or were decided on, one of the candidates must be decided again.
            candidate.bump()
        if owner is not None:
            self._waits.arrived(address)


class PodRegistry:
    """Pod entries by name. Finished pods have none. Pods on the host's network have an entry but no address."""

    def __init__(
        self,
        addresses: AddressOwners,
        assignments: IdentityAssignments,
        exemptions: Exemptions,
        *,
        waits: LookupWait,
        suspensions: Suspensions,
        pending_reads: PendingReads,
        on_gone: Callable[[PodEntry], None],
    ) -> None:
        """Store the parts. *waits* are those for a name.

        *on_gone* is called with each removed pod, when no request can find it any more.
        """
        self._addresses = addresses
        self._assignments = assignments
        self._exemptions = exemptions
        self._waits = waits
        self._suspensions = suspensions
        self._pending_reads = pending_reads
        self._on_gone = on_gone
        self._entries: dict[PodKey, PodEntry] = {}
        self._by_namespace: dict[str, dict[str, PodEntry]] = {}

    def __iter__(self) -> Iterator[PodEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, namespace: str, name: str) -> PodEntry | None:
        return self._entries.get((namespace, name))

    def record_of(self, key: str) -> PodRecord | None:
        """Return the record of the pod that `PodEntry.key` names."""
        entry = self.get(*key.split("/", 1))
        return entry.record if entry is not None else None

    # The watch's handler.

    def upserted(self, old: Pod | None, new: Pod) -> None:  # noqa: ARG002 - compared with the entry
        """Add or update a pod of this node."""
        self._pending_reads.changed(new.key)
        entry = self._entries.get(new.key)
        if entry is not None and entry.uid != new.metadata.uid:
            # A later pod of the same name inherits neither ready responses nor a suspension.
            self.retire(entry)
            entry = None
        if new.finished:
            if entry is not None:
                self.retire(entry)
        elif entry is None:
            self.enter(new, confirmed=True)
        else:
            before, started = entry.addresses, newest_running(entry.pod)
            entry.update(new, self._exemptions.reason(new))
            entry.assign(self._assignments.of(entry.facts))
            self._addresses.remove((address for address in before if address not in entry.addresses), entry)
            self._addresses.add(entry.addresses, entry)
            # The container may run in a new sandbox. A read from before does not show who has its address.
            if newest_running(new) > started:
                self._addresses.started_again(entry)
            self._suspensions.changed(entry)

    def deleted(self, old: Pod) -> None:
        """Remove a pod of this node."""
        self._pending_reads.changed(old.key)
        entry = self._entries.get(old.key)
        # A late deletion of a former pod must not remove its successor of the same name.
        if entry is not None and entry.uid == old.metadata.uid:
            self.retire(entry)

    # Other changes of entries.

    def reassign(self, affected: AffectedPods) -> None:
        """Update the identities of these pods."""
        for entry in self._entries_of(affected):
            entry.assign(self._assignments.of(entry.facts))

    def reexempt(self, affected: AffectedPods) -> None:
        """Update the exemptions of these pods."""
        for entry in self._entries_of(affected):
            entry.exempt(self._exemptions.reason(entry.pod))

    def _entries_of(self, affected: AffectedPods) -> list[PodEntry]:
        namespace, name = affected
        # Exceptions affect one namespace only, so a change costs nothing for the pods of others.
        entries = self._by_namespace.get(namespace, {})
        if not name:
            return list(entries.values())
        return [entries[name]] if name in entries else []

    def enter(self, pod: Pod, *, confirmed: bool) -> PodEntry:
        """Add an entry. *confirmed*: the watch, not only a read, reported the pod. No entry of that name may exist."""
        entry = PodEntry(pod, exempt=self._exemptions.reason(pod), confirmed=confirmed)
        entry.assign(self._assignments.of(entry.facts))
        self._entries[pod.key] = entry
        self._by_namespace.setdefault(entry.namespace, {})[entry.name] = entry
        self._addresses.add(entry.addresses, entry)
        self._waits.arrived(entry.key)
        return entry

    def retire(self, entry: PodEntry) -> None:
        """Remove the entry permanently. Idempotent."""
        if self._entries.get((entry.namespace, entry.name)) is entry:
            del self._entries[entry.namespace, entry.name]
            entries = self._by_namespace[entry.namespace]
            del entries[entry.name]
            if not entries:
                del self._by_namespace[entry.namespace]
        # First, so that nothing is served for the pod even if a later step fails.
        entry.retire()
        self._addresses.remove(entry.addresses, entry)
        self._suspensions.left(entry)
        # Last: a request that could still find the pod would have its tokens fetched again.
        self._on_gone(entry)
