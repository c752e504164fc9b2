"""All pod entries of this node by name.

`PodRegistry` is the handler of the pod watch, and applies the changes of the other watches to the entries. Each change
takes effect before the handler returns, so that no decision uses the former state.
"""

from collections.abc import Callable, Iterator

from nmi.identity.address_owners import AddressOwners
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.container_starts import newest_running
from nmi.identity.decide import PodFacts
from nmi.identity.pods import PodEntry
from podidentity.resources import Pod

PodKey = tuple[str, str]
"""Namespace and name."""


class PodRegistry:
    """Pod entries by name. Finished pods have none. Pods on the host's network have an entry but no address."""

    def __init__(
        self,
        addresses: AddressOwners,
        assigned: Callable[[PodFacts], tuple[AssignedIdentity, ...]],
        exempt: Callable[[Pod], str],
        entered: Callable[[PodEntry], None],
        left: Callable[[PodEntry], None],
        *,
        reported: Callable[[PodEntry], None] = lambda _entry: None,
        on_event: Callable[[PodKey], None] = lambda _key: None,
    ) -> None:
        """Store the callbacks.

        *assigned* and *exempt* return the identities and the exemption of a pod according to the watches.

        *entered* is called with each new entry, *left* with each entry that is removed. *reported* is called after the
        watch delivered a new state of a known pod, *on_event* before any watch event about a pod is applied.
        """
        self._addresses = addresses
        self._assigned = assigned
        self._exempt = exempt
        self._entered = entered
        self._left = left
        self._reported = reported
        self._on_event = on_event
        self._entries: dict[PodKey, PodEntry] = {}
        self._by_namespace: dict[str, dict[str, PodEntry]] = {}

    def __iter__(self) -> Iterator[PodEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, namespace: str, name: str) -> PodEntry | None:
        return self._entries.get((namespace, name))

    # The watch's handler.

    def upserted(self, old: Pod | None, new: Pod) -> None:  # noqa: ARG002 - compared with the entry
        """Add or update a pod of this node."""
        self._on_event(new.key)
        entry = self._entries.get(new.key)
        if entry is not None and entry.uid != new.metadata.uid:
            self.retire(entry)
            entry = None
        if new.finished:
            if entry is not None:
                self.retire(entry)
        elif entry is None:
            self.enter(new, confirmed=True)
        else:
            before, started = entry.addresses, newest_running(entry.pod)
            entry.update(new, self._exempt(new))
            entry.assign(self._assigned(entry.facts))
            self._addresses.remove((each for each in before if each not in entry.addresses), entry)
            self._addresses.add(entry.addresses, entry)
            if newest_running(new) > started:
                self._addresses.started_again(entry)
            self._reported(entry)

    def deleted(self, old: Pod) -> None:
        """Remove a pod of this node."""
        self._on_event(old.key)
        entry = self._entries.get(old.key)
        if entry is not None and entry.uid == old.metadata.uid:
            self.retire(entry)

    # Other changes of entries.

    def reassign(self, namespace: str, name: str) -> None:
        """Update the identities of that pod; without a *name*, of every pod of the namespace."""
        there = self._by_namespace.get(namespace, {})
        for entry in list(there.values()) if not name else [each for each in (there.get(name),) if each is not None]:
            entry.assign(self._assigned(entry.facts))

    def reexempt(self, namespace: str) -> None:
        """Update the exemptions of every pod of the namespace."""
        for entry in list(self._by_namespace.get(namespace, {}).values()):
            entry.exempt(self._exempt(entry.pod))

    def enter(self, pod: Pod, *, confirmed: bool) -> PodEntry:
        """Add an entry. *confirmed*: the watch, not only a read, reported the pod. No entry of that name may exist."""
        exempt = self._exempt(pod)
        entry = PodEntry(pod, exempt=exempt, confirmed=confirmed)
        entry.assign(self._assigned(entry.facts))
        self._entries[pod.key] = entry
        self._by_namespace.setdefault(entry.namespace, {})[entry.name] = entry
        self._addresses.add(entry.addresses, entry)
        self._entered(entry)
        return entry

    def retire(self, entry: PodEntry) -> None:
        """Remove the entry permanently. Idempotent."""
        if self._entries.get((entry.namespace, entry.name)) is entry:
            del self._entries[entry.namespace, entry.name]
            there = self._by_namespace[entry.namespace]
            del there[entry.name]
            if not there:
                del self._by_namespace[entry.namespace]
        entry.retire()
        self._addresses.remove(entry.addresses, entry)
        self._left(entry)
